//! `boardlane demo`: a master and its boards on one machine, as namespaces and processes that share
//! nothing but the descriptors of the slot sockets.
//!
//! Theory of operation. `Layout` says what is to be built, `Scene`
//! builds it and takes it away again, `wait` asks the daemons until their links are up, `survey` and
//! `measure` look at what came of it, `report` tells it. The daemons are this program again,
//! started as a user would start them. Every step ends at a signal; whatever way the steps end, the
//! scene is dismantled after them. Without root's rights all of this is in a user namespace (see
//! [`userns`]): two such demos share nothing, so the lock that lets root have one at a time never
//! keeps one of them from running.
//!
//! Invariants: all children are started from the thread that called [`run`], as they die with it. No
//! step waits without a bound, `--keep` apart. Nothing panics for want of a terminal or a reader.

mod console;
mod error;
mod layout;
mod measure;
mod report;
mod scene;
mod survey;
mod wait;

pub use error::Error;
pub use layout::Place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use console::Console;
use layout::{Layout, Machine};
use scene::Scene;

use crate::daemon::columns::table;
use crate::daemon::interrupt;
use crate::os::userns;

/// Boards of one demo at most: `bl0` to `bl63`.
const BOARDS_MAX: u8 = 64;
/// The netdev's range.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_521;
/// Seconds of one measurement at most.
const SECONDS_MAX: u32 = 3600;
/// How often a kept demo looks at its processes.
const LOOK: Duration = Duration::from_millis(100);

/// What `boardlane demo` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Number of boards, 1..=64.
    pub boards: u8,
    /// Seconds of one throughput measurement, 1..=3600.
    pub seconds: u32,
    /// MTU of every netdev, 68..=65521; below 1280 there is no IPv6.
    pub mtu: u32,
    /// The `dma` key of every link: `auto` or `direct`.
    pub dma: String,
    /// Print the result as one JSON object, and nothing else, on standard output.
    pub json: bool,
    /// Stay until a signal.
    pub keep: bool,
    /// The program that is the daemons; this one, without.
    pub program: Option<PathBuf>,
    /// Where the demo is built.
    pub place: Place,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            boards: 2,
            seconds: 3,
            mtu: 1500,
            dma: "auto".to_owned(),
            json: false,
            keep: false,
            program: None,
            place: Place::default(),
        }
    }
}

impl Options {
    fn layout(&self) -> Result<Layout, Error> {
        let usage = |what: String| Err(Error::Usage(what));
        if !(1..=BOARDS_MAX).contains(&self.boards) {
            return usage(format!("--boards {}: 1 to {BOARDS_MAX}", self.boards));
        }
        if !(1..=SECONDS_MAX).contains(&self.seconds) {
            return usage(format!("--seconds {}: 1 to {SECONDS_MAX}", self.seconds));
        }
        if !MTUS.contains(&self.mtu) {
            return usage(format!("--mtu {}: {} to {}", self.mtu, MTUS.start(), MTUS.end()));
        }
        match self.dma.as_str() {
            "auto" | "direct" | "engine" => {}
            other => return usage(format!("--dma {other}: auto, direct or engine")),
        }
        Ok(Layout {
            place: self.place.clone(),
            boards: self.boards,
            mtu: self.mtu,
            dma: self.dma.clone(),
        })
    }
}

/// Removes what a dead demo left in this place; with `dry_run`, only looks. Says what; nothing if a
/// demo runs.
///
/// # Errors
/// Why it cannot be removed, in one line.
pub fn clean(place: &Place, dry_run: bool) -> Result<Vec<String>, String> {
    scene::clean(&place.directory, dry_run)
}

/// Runs the demo, from building to cleaning up; reports on standard output. Returns whether all was
/// well: no ping lost, data through every link both ways, nothing left behind.
///
/// Without the rights for it the process moves into a user namespace of its own first, for good: it
/// must have one thread only.
///
/// # Errors
/// What kept the demo from coming to its end. What it had made is removed then, too.
pub fn run(options: &Options) -> Result<bool, Error> {
    let layout = options.layout()?;
    fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(Error::NoTun)?;
    let private = !userns::is_needless();
    if private {
        userns::enter().map_err(Error::NoNamespaces)?;
    }
    let program = match &options.program {
        Some(program) => program.clone(),
        None => this_program()?,
    };
    let stop = interrupt::watch().map_err(Error::Signals)?;
    let scene = Scene::claim(&layout.place.directory)?;
    let console = Console::new(options.json);
    let mut demo = Demo { options, layout, program, private, stop, scene, console };
    let result = demo.play();
    demo.console.progress("cleaning up");
    let problems = demo.scene.dismantle();
    demo.console.clear();
    for problem in &problems {
        demo.console.warn(problem);
    }
    result.map(|ok| ok && problems.is_empty())
}

/// A demo under way.
#[derive(Debug)]
struct Demo<'a> {
    options: &'a Options,
    layout: Layout,
    program: PathBuf,
    /// All of it is in a user namespace of its own.
    private: bool,
    stop: Arc<AtomicBool>,
    scene: Scene,
    console: Console,
}

impl Demo<'_> {
    fn play(&mut self) -> Result<bool, Error> {
        self.build()?;
        let links = self.wait_until_up()?;
        self.show_machines(&links)?;
        let report = self.measure(links)?;
        let text = report.json().map_err(|error| Error::Output(error.into()))?;
        self.console.object(&text)?;
        let died = self.report_deaths();
        self.console.stage(if report.ok {
            "\nOK: all links carry traffic both ways, no ping was lost"
        } else {
            "\nNot OK: pings were lost, or a link carried no data"
        })?;
        if self.options.keep {
            self.keep()?;
        }
        Ok(report.ok && !died)
    }

    /// Makes namespaces and config files and starts the processes.
    fn build(&mut self) -> Result<(), Error> {
        let Layout { boards, mtu, dma, .. } = &self.layout;
        let plural = if *boards == 1 { "" } else { "s" };
        let title = format!("boardlane demo: {boards} board{plural}, MTU {mtu}, dma {dma}");
        self.console.stage(&title)?;
        if self.private {
            let text = "without root's rights: all of it is in a user namespace of its own";
            self.console.stage(text)?;
        }
        if !self.layout.ipv6() {
            self.console.stage("no IPv6: it needs an MTU of 1280 or more")?;
        }
        let slots = self.layout.slots();
        fs::create_dir(&slots).map_err(|error| Error::File(slots.clone(), error))?;
        for machine in self.layout.machines() {
            self.check_stop()?;
            self.console.progress(&format!("building {}", machine.name()));
            let name = self.layout.namespace(machine);
            self.scene.add_namespace(&name)?;
            self.scene.run_in(&name, "bring up its loopback", survey::loopback_up)?;
            let files = self.layout.files(machine);
            fs::create_dir(&files).map_err(|error| Error::File(files, error))?;
            let path = self.layout.config(machine);
            let text = self.layout.config_text(machine);
            fs::write(&path, text).map_err(|error| Error::File(path, error))?;
        }
        self.forward()?;
        let words = ["backplane", "--dir", &text(&slots), "--slots", &boards_text(&self.layout)]
            .map(str::to_owned);
        self.scene.start("backplane".to_owned(), None, &self.program, &words)?;
        for machine in self.layout.machines() {
            self.check_stop()?;
            let what = match machine {
                Machine::Master => machine.name(),
                Machine::Board(_) => format!("{} of {}", machine.role(), machine.name()),
            };
            let role = machine.role().to_string();
            let words = [role, "--config".to_owned(), text(&self.layout.config(machine))];
            let namespace = Some(self.layout.namespace(machine));
            self.scene.start(what, namespace, &self.program, &words)?;
        }
        self.show_processes()
    }

    /// Makes the master a router: boards reach each other through it.
    fn forward(&self) -> Result<(), Error> {
        let mut keys = vec!["/proc/sys/net/ipv4/ip_forward"];
        if self.layout.ipv6() {
            keys.push("/proc/sys/net/ipv6/conf/all/forwarding");
        }
        let master = self.layout.namespace(Machine::Master);
        self.scene.run_in(&master, "switch on forwarding", || {
            keys.iter().try_for_each(|key| fs::write(key, "1"))
        })
    }

    fn show_processes(&mut self) -> Result<(), Error> {
        let mut rows = vec![["pid", "namespace", "command"].map(str::to_owned).to_vec()];
        for process in self.scene.processes() {
            rows.push(vec![
                process.pid().to_string(),
                process.namespace.clone().unwrap_or_else(|| "-".to_owned()),
                process.command.join(" "),
            ]);
        }
        self.console.say(&format!("\nProcesses\n{}", table("  ", &rows)))
    }

    /// Stays until a signal, telling when a process ends.
    fn keep(&mut self) -> Result<(), Error> {
        let mut lines = vec!["\nKept. To enter a machine:".to_owned()];
        let names = self.layout.machines().map(|machine| self.layout.namespace(machine));
        lines.extend(names.map(|name| format!("  {}", self.way_into(&name))));
        lines.push("Its processes:".to_owned());
        for process in self.scene.processes().iter().filter(|process| !process.has_ended()) {
            lines.push(format!("  {:>7}  {}", process.pid(), process.command.join(" ")));
        }
        lines.push("Killing one shows its links go down; it is not started again.".to_owned());
        lines.push("Ctrl-C ends the demo and removes all of it.".to_owned());
        self.console.stage(&lines.join("\n"))?;
        while !self.stop.load(Ordering::Relaxed) {
            self.report_deaths();
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The command that enters a network namespace of the demo from another shell.
    fn way_into(&self, name: &str) -> String {
        if !self.private {
            return format!("ip netns exec {name} sh    or: nsenter --net=/run/netns/{name} sh");
        }
        // Through this process, which outlives each daemon. nsenter opens the path before it enters
        // the mount table that has it as /run/netns.
        let pid = std::process::id();
        format!(
            "nsenter -t {pid} -U -m --preserve-credentials --net=/proc/{pid}/root/run/netns/{name} sh"
        )
    }

    /// Tells of processes that ended since the last look; whether there were any.
    fn report_deaths(&mut self) -> bool {
        let news = self.scene.newly_ended();
        for (what, log) in &news {
            self.console.warn(&format!("{what}{log}"));
        }
        !news.is_empty()
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// This program's file. A private `/run` may hide it, but not what the kernel has for it.
fn this_program() -> Result<PathBuf, Error> {
    let failed = |error| Error::Spawn("this program again".to_owned(), error);
    let path = std::env::current_exe().map_err(failed)?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn boards_text(layout: &Layout) -> String {
    layout.boards.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: Options) -> String {
        let error = options.layout().unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error:?}");
        error.to_string()
    }

    #[test]
    fn options_out_of_range_are_refused_with_the_range() {
        assert!(refused(Options { boards: 0, ..Options::default() }).contains("1 to 64"));
        assert!(refused(Options { boards: 65, ..Options::default() }).contains("1 to 64"));
        assert!(refused(Options { seconds: 0, ..Options::default() }).contains("1 to 3600"));
        assert!(refused(Options { mtu: 67, ..Options::default() }).contains("68 to 65521"));
        assert!(refused(Options { mtu: 65_522, ..Options::default() }).contains("68 to 65521"));
        let dma = |dma: &str| Options { dma: dma.to_owned(), ..Options::default() };
        assert!(refused(dma("fast")).contains("auto, direct or engine"));
    }

    #[test]
    fn the_largest_demo_is_within_the_ranges() {
        let options = Options { boards: 64, seconds: 3600, mtu: 65_521, ..Options::default() };
        assert_eq!(options.layout().unwrap().machines().count(), 65);
    }
}
