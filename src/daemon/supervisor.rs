//! A daemon: its links side by side on one current-thread runtime, a control socket, signals, a config
//! that may be read again, and functions of PCI that come and go, for each of which a pattern has a link.
//!
//! A reload is a task of its own, and so is what follows functions; one at a time changes which links
//! there are: whoever asked for it may be gone before it is done, `status` is answered meanwhile, and a
//! daemon that is to stop lets it come to its end first, for a bounded time.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::broker::{Broker, Started};
use super::capture::{self, Begun, Captures, Session, Wanted as WantedCapture};
use super::config::{Config, ConfigError, LinkConfig};
use super::control::ControlSocket;
use super::counts::DaemonCounts;
use super::functions::Functions;
use super::identity::Identity;
use super::link_task::{LinkTask, Order, Shared, View, milliseconds};
use super::metrics::Metrics;
use super::namespaces::Namespaces;
use super::probe::window::LinkProbe;
use super::reload::{Fate, ReloadError, Report, check, diff};
use super::service::attend;
use super::status::Status;
use super::{Confine, Role};
use crate::os::confine::{Part, process, workers};
use crate::os::limits::raise_file_limit;
use crate::os::log::left_out;
use crate::os::notify::Manager;
use crate::os::terminal::Terminal;

/// How long a reload may still take when the daemon is to stop: more than two answers of a broker may.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);

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

/// Runs an agent or a master by the config in `file` until SIGTERM, SIGINT, SIGUSR2, which leaves the
/// netdevs to the next start, or a SIGHUP that says that its terminal is gone.
///
/// # Errors
/// What ended it.
pub fn run(role: Role, file: &Path, confine: Confine) -> Result<(), Failure> {
    // A link takes some fifteen descriptors, and whoever is on its slot takes of this end what it likes.
    raise_file_limit();
    let manager = Manager::of_process();
    // Now, while this is the only thread and nothing of it is given up.
    let broker = Started::new(role, file, confine)
        .map_err(|e| format!("starting the broker: {e} (`--no-confine broker` does without)"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("starting: {e}"))?;
    let local = LocalSet::new();
    let done = local.block_on(&runtime, supervise(role, broker, confine, manager));
    // A thread that waits for something still must not hold the process.
    runtime.shutdown_background();
    done
}

async fn supervise(
    role: Role,
    broker: Started,
    confine: Confine,
    manager: Manager,
) -> Result<(), Failure> {
    let terminal = Terminal::of_process();
    // Before what takes time: a signal to read the config again must not end a daemon that starts.
    let failed = |e| format!("signals: {e}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hand_over = signal(SignalKind::user_defined2()).map_err(failed)?;
    let hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let broker = broker.attend().map_err(|e| format!("the broker's socket: {e}"))?;
    let config = broker.config().await.map_err(Failure::Config)?;
    broker.adopt().await?;
    // Before anything else, so that a second daemon changes nothing.
    let control =
        ControlSocket::bind(&config.control, &config.access).map_err(|e| e.to_string())?;
    let identity = Identity::of_machine();
    enclose(confine, &config.control);
    let daemon = Rc::new(Daemon::new(role, broker.clone(), identity, &config, manager));
    daemon.begin(config).await;
    tracing::info!(
        "{role} {} with {} links, pid {}",
        super::VERSION,
        daemon.links.borrow().len(),
        std::process::id()
    );
    daemon.manager.tell("READY=1");
    let (mut done, mut keep_netdevs) = (Ok(()), false);
    tokio::select! {
        // First: it comes with a SIGTERM close behind it.
        biased;
        _ = hand_over.recv() => {
            tracing::info!("SIGUSR2: stopping, the next start takes over the netdevs");
            keep_netdevs = true;
        }
        () = control.serve(
            || daemon.status(),
            |link| daemon.probe(link),
            |wanted| daemon.capture(wanted),
            || daemon.reload(),
        ) => {}
        () = daemon.metrics.serve(|| daemon.status()) => {}
        () = broker.lost() => done = Err("the broker has ended, so this daemon stops".to_owned()),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = hang_ups(hangup, &terminal, &daemon) => tracing::info!("SIGHUP, the terminal is gone: stopping"),
        () = attend(&daemon.manager, || daemon.summary(), || broker.answers()) => {}
    }
    daemon.manager.tell("STOPPING=1");
    daemon.stop(keep_netdevs).await;
    broker.close().await;
    Ok(done?)
}

/// SIGHUP asks a daemon to read its config again. The kernel says with the same signal that the
/// terminal is gone, and with it whoever could stop a daemon that was started there: then this ends.
async fn hang_ups(mut hangup: Signal, terminal: &Terminal, daemon: &Rc<Daemon>) {
    while hangup.recv().await.is_some() && !terminal.is_gone() {
        // What came of it is logged.
        drop(daemon.reload().await);
    }
}

/// What the links are made from.
struct Wanted {
    config: Config,
    /// Its links with the functions that are there.
    links: Vec<LinkConfig>,
    /// Functions that a pattern covers and that have no link, which has been told.
    nameless: Vec<String>,
}

/// A link that runs, as the supervisor sees it.
#[derive(Debug)]
struct RunningLink {
    name: String,
    view: Rc<RefCell<View>>,
    captures: Arc<Captures>,
    orders: watch::Sender<Order>,
    /// The number of the last order that it has carried out.
    done: watch::Receiver<u64>,
    /// Taken when it is to end.
    task: Option<JoinHandle<()>>,
}

impl RunningLink {
    /// Tells the link to end; what is left is to wait for the task.
    fn stop(&mut self, keep_netdev: bool) -> Option<JoinHandle<()>> {
        self.order(|order| {
            order.stop = true;
            order.config.keep |= keep_netdev;
        });
        self.task.take()
    }

    /// Gives the link an order.
    fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_modify(|order| {
            order.number += 1;
            change(order);
        });
    }

    /// Ready when the last order is carried out, or the task has ended.
    fn carried_out(&self) -> impl Future<Output = ()> + use<> {
        let number = self.orders.borrow().number;
        let mut done = self.done.clone();
        // An error means that the task has ended.
        async move { drop(done.wait_for(|done| *done >= number).await) }
    }
}

struct Daemon {
    role: Role,
    broker: Broker,
    manager: Manager,
    control: PathBuf,
    identity: Identity,
    /// What all links count their heartbeats from.
    origin: Instant,
    functions: Functions,
    metrics: Metrics,
    counts: RefCell<DaemonCounts>,
    namespaces: Namespaces,
    /// In the order of the config. Nobody awaits anything while he looks at them.
    links: RefCell<Vec<RunningLink>>,
    /// Whoever adds or ends links holds it for so long.
    wanted: Mutex<Wanted>,
    /// No link begins any more.
    stopping: Cell<bool>,
}

impl Daemon {
    /// Without links yet.
    fn new(
        role: Role,
        broker: Broker,
        identity: Identity,
        config: &Config,
        manager: Manager,
    ) -> Self {
        Self {
            role,
            functions: Functions::new(broker.clone()),
            metrics: Metrics::new(broker.clone()),
            counts: RefCell::new(DaemonCounts::begin()),
            namespaces: Namespaces::new(broker.clone()),
            broker,
            manager,
            origin: Instant::now(),
            control: config.control.clone(),
            identity,
            links: RefCell::default(),
            wanted: Mutex::new(Wanted {
                config: config.clone(),
                links: Vec::new(),
                nameless: Vec::new(),
            }),
            stopping: Cell::new(false),
        }
    }

    fn status(&self) -> Status {
        Status {
            role: self.role.to_string(),
            pid: std::process::id(),
            version: super::VERSION.to_owned(),
            uptime_ms: milliseconds(self.origin.elapsed()),
            links: self.links.borrow().iter().map(|link| link.view.borrow().status()).collect(),
            metrics: self.metrics.status(),
            counts: DaemonCounts { log_lines_left_out: left_out(), ..self.counts.borrow().clone() },
        }
    }

    /// In a few words.
    fn summary(&self) -> String {
        let links = self.links.borrow();
        let up = links.iter().filter(|link| link.view.borrow().is_up()).count();
        let plural = if links.len() == 1 { "" } else { "s" };
        format!("{} link{plural}, {up} up", links.len())
    }

    /// What the link of this name says of its window and queues.
    fn probe(&self, name: &str) -> Option<LinkProbe> {
        let links = self.links.borrow();
        let link = links.iter().find(|link| link.name == name)?;
        Some(link.view.borrow().probe())
    }

    /// Begins a capture of a link, or says why not.
    fn capture(&self, wanted: &WantedCapture) -> Result<(Session, Begun), String> {
        let links = self.links.borrow();
        let Some(link) = links.iter().find(|link| link.name == wanted.link) else {
            let names = links.iter().map(|link| &*link.name).collect::<Vec<_>>().join(", ");
            return Err(format!("there is no link {}; there are: {names}", wanted.link));
        };
        if link.view.borrow().in_kernel() {
            return Err(capture::KERNEL_MOVES.to_owned());
        }
        if links.iter().map(|link| link.captures.count()).sum::<usize>() >= capture::MOST {
            let most = capture::MOST;
            return Err(format!("{most} captures are under way, which is the most: end one first"));
        }
        let queues = link.orders.borrow().config.queues;
        let session = link.captures.begin(wanted, queues)?;
        let begun = session.begun(self.role.to_string());
        Ok((session, begun))
    }

    /// Reads the config again and does what is different in it, as a task.
    fn reload(self: &Rc<Self>) -> JoinHandle<Result<Report, ReloadError>> {
        let daemon = self.clone();
        spawn_local(async move {
            daemon.manager.tell("RELOADING=1");
            let done = daemon.reread().await;
            daemon.manager.tell("READY=1");
            let counts = &mut daemon.counts.borrow_mut();
            match &done {
                Ok(report) => {
                    counts.reloads += 1;
                    tracing::info!("reload: {report}");
                }
                Err(error) => {
                    counts.reload_failures += 1;
                    tracing::error!("reload: nothing was changed: {error}");
                }
            }
            done
        })
    }

    async fn reread(self: &Rc<Self>) -> Result<Report, ReloadError> {
        let mut wanted = self.wanted.lock().await;
        let new = self.broker.config().await.map_err(ReloadError::Config)?;
        check(&wanted.config, &new)?;
        self.broker.adopt().await.map_err(ReloadError::Broker)?;
        self.look(&new).await;
        Ok(self.change(&mut wanted, new).await)
    }

    /// Starts the links, and follows the functions.
    async fn begin(self: &Rc<Self>, config: Config) {
        self.look(&config).await;
        let mut functions = self.functions.subscribe();
        self.change(&mut *self.wanted.lock().await, config).await;
        let daemon = self.clone();
        spawn_local(async move {
            while functions.changed().await.is_ok() {
                let mut wanted = daemon.wanted.lock().await;
                let config = wanted.config.clone();
                let report = daemon.change(&mut wanted, config).await;
                if !report.added.is_empty() || !report.removed.is_empty() {
                    tracing::info!("PCI functions have come or gone: {report}");
                }
            }
        });
    }

    /// Looks which functions there are, and from then on again and again, if the config has to do with any.
    async fn look(&self, config: &Config) {
        if config.has_functions() {
            self.functions.look().await;
            self.functions.follow();
        }
    }

    /// Goes over to another config, or to the functions that are there now.
    async fn change(&self, wanted: &mut Wanted, config: Config) -> Report {
        let there = self.functions.there();
        let nameless = config.nameless(&there);
        for function in nameless.iter().filter(|it| !wanted.nameless.contains(it)) {
            tracing::warn!("PCI function {function} has no name by its pattern: give it an entry");
        }
        self.metrics.move_to(config.metrics.as_ref());
        let links = config.links_with(&there);
        let fates = diff(self.role, &wanted.links, &links);
        // A slot, a name or an address may go from one link to another: first those end that do.
        self.end_links(&fates).await;
        futures::future::join_all(self.change_links(&fates, &links)).await;
        self.start(&links);
        *wanted = Wanted { config, links, nameless };
        Report::of(fates)
    }

    /// Ends the links that go, and those that begin anew.
    async fn end_links(&self, fates: &[(String, Fate)]) {
        let mut ends = Vec::new();
        for (name, fate) in fates {
            let keep_netdev = match fate {
                Fate::Removed => false,
                Fate::Restarted { keep_netdev } => *keep_netdev,
                Fate::Unchanged | Fate::Changed | Fate::Added => continue,
            };
            let mut links = self.links.borrow_mut();
            let link = links.iter_mut().find(|link| link.name == *name);
            ends.extend(link.and_then(|link| link.stop(keep_netdev)));
        }
        await_ends(ends).await;
    }

    /// Gives the links that change as they run their new configs; ready when each has taken it. Those
    /// that heal nothing by themselves are set up by this, too.
    fn change_links(
        &self,
        fates: &[(String, Fate)],
        configs: &[LinkConfig],
    ) -> Vec<impl Future<Output = ()> + use<>> {
        let links = self.links.borrow();
        let mut changes = Vec::new();
        for (name, fate) in fates {
            let link = links.iter().find(|link| link.name == *name);
            let config = configs.iter().find(|config| config.name == *name);
            let (Some(link), Some(config)) = (link, config) else { continue };
            if *fate == Fate::Changed || *fate == Fate::Unchanged && !config.netdev.reconcile {
                link.order(|order| order.config = config.clone());
                changes.push(link.carried_out());
            }
        }
        changes
    }

    /// Starts the links that do not run, forgets those that have ended, and brings all into the order
    /// of `configs`.
    fn start(&self, configs: &[LinkConfig]) {
        if self.stopping.get() {
            return;
        }
        let mut links = self.links.borrow_mut();
        let mut running = std::mem::take(&mut *links);
        for (place, config) in configs.iter().enumerate() {
            let known = running.iter().position(|link| link.name == config.name);
            let known = known.map(|at| running.remove(at));
            links.push(match known {
                Some(link) if link.task.is_some() => link,
                ended => self.start_link(place, config.clone(), ended),
            });
        }
        running.iter().for_each(|link| link.captures.end("the config has this link no more"));
    }

    /// Starts a link. What one of its name that has `ended` has counted counts on, and who captures it goes on.
    fn start_link(
        &self,
        place: usize,
        config: LinkConfig,
        ended: Option<RunningLink>,
    ) -> RunningLink {
        let (name, slot) = (config.name.clone(), config.slot_at(place));
        if config.netns.is_some() {
            self.namespaces.follow();
        }
        let before = ended.as_ref().map(|link| link.view.borrow());
        let view = Rc::new(RefCell::new(View::after(&config, before.as_deref())));
        drop(before);
        let captures = ended.map(|link| link.captures).unwrap_or_default();
        let (orders, ordered) = watch::channel(Order { number: 0, config, stop: false });
        let (carried_out, done) = watch::channel(0);
        let broker = self.broker.clone();
        let shared = Shared {
            broker,
            functions: self.functions.subscribe(),
            strays: self.namespaces.subscribe(),
            origin: self.origin,
            view: view.clone(),
            captures: captures.clone(),
            orders: ordered,
            done: carried_out,
        };
        let task = LinkTask::new(self.role, slot, self.control.clone(), &self.identity, shared);
        RunningLink { name, view, captures, orders, done, task: Some(spawn_local(task.run())) }
    }

    /// Ends all links, once a reload that is under way is done or has had its time; none begins any more.
    /// Their netdevs may be left to the next start.
    async fn stop(&self, keep_netdevs: bool) {
        let wanted = timeout(RELOAD_LIMIT, self.wanted.lock()).await;
        if wanted.is_err() {
            tracing::warn!("a change of links hangs, and is given up");
        }
        self.stopping.set(true);
        let tasks =
            self.links.take().iter_mut().filter_map(|link| link.stop(keep_netdevs)).collect();
        await_ends(tasks).await;
    }
}

async fn await_ends(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(e) = task.await {
            tracing::error!("a link's task: {e}");
        }
    }
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

#[cfg(feature = "pci")]
#[cfg(test)]
mod tests;
