//! A daemon: its links side by side on one current-thread runtime, a control socket, signals.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::Role;
use super::config::Config;
use super::control::ControlSocket;
use super::identity::Identity;
use super::link_task::{LinkTask, View};
use super::status::Status;

/// Runs an agent or a master until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// What ended it, in one line.
pub fn run(role: Role, config: Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("starting: {e}"))?;
    let local = LocalSet::new();
    let done = local.block_on(&runtime, supervise(role, config));
    // A thread that a peer holds in ringing its doorbell must not hold the process.
    runtime.shutdown_background();
    done
}

async fn supervise(role: Role, config: Config) -> Result<(), String> {
    let failed = |e| format!("signals: {e}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // Before anything else, so that a second daemon changes nothing.
    let control =
        ControlSocket::bind(&config.control, &config.access).map_err(|e| e.to_string())?;
    let identity = Identity::of_machine();
    let (stop, stopped) = watch::channel(false);
    let mut views = Vec::new();
    let mut tasks = Vec::new();
    for (index, link) in config.links.into_iter().enumerate() {
        let view = Rc::new(RefCell::new(View::new(&link)));
        views.push(view.clone());
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let task =
            LinkTask::new(role, link, &config.control, index, &identity, view, stopped.clone());
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
    tokio::select! {
        () = control.serve(status) => {}
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
    Ok(())
}
