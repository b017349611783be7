//! `boardlane probe`: what there is on this machine that can be a link's, and what a window says.
//!
//! A target that a running daemon holds is looked at by that daemon: asked over its control socket, it
//! reads the header in its own mapping. Any other is mapped here, to be read only. Each is looked at
//! until the heartbeats that should move have moved, for a second or so at most.

#[cfg(feature = "uio")]
mod devices;
#[cfg(feature = "pci")]
mod functions;
mod list;
mod mapped;
mod text;
mod verdict;
pub mod window;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::RUN_DIR;
use super::control::client::{ask_all, ask_probe, sockets};
use super::status::{LinkState, LinkStatus, Status, visible};
#[cfg(feature = "pci")]
use crate::os::fabric::pci::{Address, Tree};
use list::List;
use mapped::Mapped;
use verdict::verdict;
use window::{Content, LinkProbe, Part, Queue, Window};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A heartbeat has so long to move; by default one comes in 250 ms.
const LOOKS_TIME: Duration = Duration::from_secs(1);

/// What `boardlane probe` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What to look at; without any, what there is is listed.
    pub targets: Vec<String>,
    /// One daemon's socket; otherwise all in [`RUN_DIR`] are asked.
    pub control: Option<PathBuf>,
    /// JSON instead of text.
    pub json: bool,
}

/// What `boardlane probe` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For standard output.
    pub shown: String,
    /// One line each for standard error: what could not be asked or looked at.
    pub failures: Vec<String>,
    /// Whether every target has a window that is good.
    pub good: bool,
}

/// A target and what was found; later versions only add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The target, as it was given.
    pub target: String,
    /// Whether it has a window of this program's layout.
    pub good: bool,
    /// What it comes to, or why it cannot be looked at.
    pub verdict: String,
    /// The daemon that was asked; null where this process mapped the window itself.
    pub asked: Option<Asked>,
    /// What stands there.
    pub window: Option<Window>,
    /// The layout of a window that has no header, as its daemon tells.
    pub headerless: Option<String>,
    /// The queues, as far as a daemon tells.
    pub queues: Vec<Queue>,
}

/// A daemon's link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The daemon's control socket.
    pub control: PathBuf,
    /// "master" or "agent".
    pub role: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The link's name.
    pub link: String,
    /// The link's state.
    pub state: LinkState,
}

/// Looks at the targets, or lists what there is.
pub fn probe(options: &Options) -> Report {
    let one = options.control.clone().map(|path| vec![path]);
    let all = || sockets(Path::new(RUN_DIR)).unwrap_or_default();
    let (daemons, mut failures) = Daemons::ask(&one.unwrap_or_else(all));
    if options.targets.is_empty() {
        let list = List::new(Path::new(RUN_DIR), &daemons);
        let shown = if options.json { json(&list) } else { text::list(&list) };
        return Report { shown, failures, good: true };
    }
    let targets = options.targets.iter();
    let found: Vec<Found> = targets.flat_map(|target| look_at(target, &daemons)).collect();
    let bad = found.iter().filter(|found| found.window.is_none());
    failures.extend(bad.map(|found| visible(&format!("{}: {}", found.target, found.verdict))));
    let good = found.iter().all(|found| found.good);
    Report { shown: if options.json { json(&found) } else { text::all(&found) }, failures, good }
}

fn json(what: &impl Serialize) -> String {
    // All keys are strings.
    serde_json::to_string(what).unwrap_or_default() + "\n"
}

/// What the daemons say of themselves.
struct Daemons(Vec<(PathBuf, Status)>);

impl Daemons {
    /// Asks them; also why one does not answer.
    fn ask(paths: &[PathBuf]) -> (Self, Vec<String>) {
        let (mut daemons, mut failures) = (Vec::new(), Vec::new());
        for (path, answer) in ask_all(paths) {
            match answer {
                Ok((_, status)) => daemons.push((path.clone(), status)),
                Err(e) => failures.push(format!("{}: {e}", path.display())),
            }
        }
        (Self(daemons), failures)
    }

    fn links(&self) -> impl Iterator<Item = (Asked, &LinkStatus)> {
        self.0.iter().flat_map(|(path, daemon)| {
            daemon.links.iter().map(move |link| {
                let asked = Asked {
                    control: path.clone(),
                    role: daemon.role.clone(),
                    pid: daemon.pid,
                    link: link.name.clone(),
                    state: link.state,
                };
                (asked, link)
            })
        })
    }
}

/// A target by its name has as many answers as there are links of this name; any other has one.
fn look_at(target: &str, daemons: &Daemons) -> Vec<Found> {
    let named = daemons.links().filter(|(asked, _)| asked.link == target);
    let named: Vec<_> = named.map(|(asked, link)| ask(target, asked, link)).collect();
    if !named.is_empty() {
        return named;
    }
    let holders = daemons.links().filter(|(_, link)| is_same(target, &link.transport));
    let held = holders.map(|(asked, link)| ask(target, asked, link));
    let held = held
        .filter(|found| found.window.is_some() || found.headerless.is_some())
        .min_by_key(|found| !found.good);
    vec![held.unwrap_or_else(|| {
        let looked = map(target).and_then(|mapped| look_twice(|| mapped.look()));
        Found::new(target, None, looked.map(|window| (window, Vec::new())))
    })]
}

/// Whether a target is this transport of a link's.
fn is_same(target: &str, transport: &str) -> bool {
    let same = |text: &str| text.split('?').next().map(canonical);
    same(target) == same(transport)
}

/// A transport without what differs between ways to write it: doubled slashes, links to its file, a PCI domain
/// left out.
fn canonical(transport: &str) -> PathBuf {
    #[cfg(feature = "pci")]
    if let Some(Ok(address)) = transport.strip_prefix("pci:").map(str::parse::<Address>) {
        return format!("pci:{address}").into();
    }
    let real = transport.split_once(':').and_then(|(kind, path)| {
        let path = std::fs::canonicalize(path).ok()?;
        Some(format!("{kind}:{}", path.display()))
    });
    PathBuf::from(real.as_deref().unwrap_or(transport)).components().collect()
}

/// Has a daemon look at the window of a link of its.
fn ask(target: &str, asked: Asked, link: &LinkStatus) -> Found {
    let (mut queues, mut headerless) = (Vec::new(), None);
    let looked = look_twice(|| {
        let answer = ask_probe(&asked.control, &asked.link).map_err(|e| e.to_string())?;
        let window;
        LinkProbe { window, headerless, queues } = answer;
        let no_window = || match (&headerless, &link.reason) {
            (Some(layout), _) => format!("layout {layout}: no header to show"),
            (None, Some(reason)) => format!("the {} says: {reason}", asked.role),
            (None, None) => format!("the {} has no window on {}", asked.role, link.transport),
        };
        window.ok_or_else(no_window)
    });
    let found = Found::new(target, Some(asked.clone()), looked.map(|window| (window, queues)));
    Found { headerless, ..found }
}

/// Maps what the target names.
fn map(target: &str) -> Result<Mapped, String> {
    let (kind, rest) = target.split_once(':').unwrap_or((target, ""));
    match kind {
        "shm" => Mapped::slot(Path::new(rest)),
        #[cfg(feature = "pci")]
        "pci" => functions::map(&Tree::default(), rest.split('?').next().unwrap_or_default()),
        #[cfg(not(feature = "pci"))]
        "pci" => Err("this program is built without the feature pci".into()),
        #[cfg(feature = "uio")]
        "uio" => devices::map(Path::new("/sys"), Path::new(rest)),
        #[cfg(not(feature = "uio"))]
        "uio" => Err("this program is built without the feature uio".into()),
        "vhost-user" => Err("no daemon holds it, and a vhost-user socket has no window".into()),
        _ if target.starts_with('/') => Err(format!("write shm:{target} for a slot's socket")),
        _ => {
            Err("no daemon has a link of this name; write shm:PATH, pci:ADDRESS or uio:/dev/uioN \
                  for a transport"
                .into())
        }
    }
}

/// Looks until all heartbeats have moved that should, for [`LOOKS_TIME`] at most.
fn look_twice(mut look: impl FnMut() -> Result<Window, String>) -> Result<Window, String> {
    let (start, first) = (Instant::now(), look()?);
    loop {
        std::thread::sleep(LOOK_INTERVAL);
        let mut window = look()?;
        window.compare(&first);
        let waits = |part: &Part| part.beats() && part.moves == Some(false);
        if !window.parts().any(waits) || start.elapsed() >= LOOKS_TIME {
            return Ok(window);
        }
    }
}

impl Found {
    fn new(
        target: &str,
        asked: Option<Asked>,
        looked: Result<(Window, Vec<Queue>), String>,
    ) -> Self {
        let (verdict, window, queues) = match looked {
            Ok((window, queues)) => (verdict(&window), Some(window), queues),
            Err(why) => (why, None, Vec::new()),
        };
        let good = window.as_ref().is_some_and(|window| window.content == Content::Good);
        Self { target: target.to_owned(), good, verdict, asked, window, headerless: None, queues }
    }
}

#[cfg(test)]
mod tests;
