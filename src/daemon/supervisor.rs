//! A daemon: its links side by side on one current-thread runtime, a control socket, signals.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::broker::Started;
use super::config::ConfigError;
use super::control::ControlSocket;
use super::identity::Identity;
use super::link_task::{LinkTask, View};
use super::status::Status;
use super::{Confine, Role};
use crate::os::confine::{Part, process, workers};

/// What ends a daemon that was not asked to stop.
#[derive(Debug)]
pub enum Failure {
    /// Its config is wrong.
    Config(ConfigError),
    /// Anything else, in one line.
    Run(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Run(text)
    }
}

/// Runs an agent or a master by the config in `file` until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// What ended it.
pub fn run(role: Role, file: &Path, confine: Confine) -> Result<(), Failure> {
    // First of all, while this is the only thread and nothing of it is given up.
    let broker = Started::new(role, file, confine)
        .map_err(|e| format!("starting the broker: {e} (`--no-confine broker` does without)"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("starting: {e}"))?;
    let local = LocalSet::new();
    let done = local.block_on(&runtime, supervise(role, broker, confine));
    // A thread that waits for something still must not hold the process.
    runtime.shutdown_background();
    done
}

async fn supervise(role: Role, broker: Started, confine: Confine) -> Result<(), Failure> {
    let broker = broker.attend().map_err(|e| format!("the broker's socket: {e}"))?;
    let config = broker.config().await.map_err(Failure::Config)?;
    broker.adopt().await?;
    let failed = |e| format!("signals: {e}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // Before anything else, so that a second daemon changes nothing.
    let control = ControlSocket::bind(&config.control).map_err(|e| e.to_string())?;
    let identity = Identity::of_machine();
    enclose(confine, &config.control);
    let (stop, stopped) = watch::channel(false);
    let mut views = Vec::new();
    let mut tasks = Vec::new();
    for (index, link) in config.links.into_iter().enumerate() {
        let view = Rc::new(RefCell::new(View::new(&link)));
        views.push(view.clone());
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let task = LinkTask::new(
            role,
            link,
            &config.control,
            index,
            &identity,
            &broker,
            view,
            stopped.clone(),
        );
        tasks.push(tokio::task::spawn_local(task.run()));
    }
    let status = || Status {
        role: role.to_string(),
        pid: std::process::id(),
        version: super::VERSION.to_owned(),
        links: views.iter().map(|view| view.borrow().status()).collect(),
    };
    tracing::info!(
        "{role} {} with {} links, pid {}",
        super::VERSION,
        views.len(),
        std::process::id()
    );
    let mut done = Ok(());
    tokio::select! {
        () = control.serve(status) => {}
        () = broker.lost() => done = Err("the broker has ended, so this daemon stops".to_owned()),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        // The terminal is gone, and with it whoever could stop us otherwise.
        _ = hangup.recv() => tracing::info!("SIGHUP: stopping"),
    }
    // Every task holds a receiver, so this reaches all that still run.
    let _ = stop.send(true);
    for task in tasks {
        if let Err(e) = task.await {
            tracing::error!("a link's task: {e}");
        }
    }
    Ok(done?)
}

/// Confines this process, which has one thread yet.
fn enclose(confine: Confine, control: &Path) {
    workers(confine.walls);
    // Who does the broker's work needs its rights, and its reach.
    if confine.broker {
        // The control socket is there, so it has a directory.
        let dir = control.parent().filter(|dir| !dir.as_os_str().is_empty());
        process(Part::Control, Some(dir.unwrap_or(Path::new("."))), confine.walls).log();
    }
    let off = confine.off();
    if !off.is_empty() {
        tracing::warn!("not confined by {}, as was asked for", off.join(", "));
    }
}
