//! `boardlane status --watch` on a terminal, which is a pseudo-terminal here, and without one.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon with so many links, which goes on by a second and 10 frames of 100 bytes each time that it is asked.
struct Daemon(PathBuf);

impl Daemon {
    fn new(name: &str, links: usize) -> Self {
        let path = std::env::temp_dir().join(format!("bl-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let asked = AtomicU64::new(1);
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
                let answer = answer(asked.fetch_add(1, Ordering::Relaxed), links);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self(path)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn answer(n: u64, links: usize) -> String {
    let traffic = format!(r#"{{"frames":{},"bytes":{},"drops":{{}}}}"#, 10 * n, 1000 * n);
    let link = |slot: usize| {
        format!(
            r#"{{"name":"bl{slot}","transport":"shm:/x","slot":null,"state":"waiting","age_ms":{},
            "counts":{{"flaps":3,"negotiation_failures":0,"quarantines":0,"heals":0,"heal_failures":0,
            "round_trips":{{"within":[0,0,0,0,0,0,0,0,0,0,0,0,0,0],"count":0,"sum_ns":0}}}},"reason":"waiting for board: window has no magic, and this is a longer reason than
            there is room for on a screen","carrier":false,"epoch":null,"peer_epoch":null,
            "peer_version":null,"mac":null,"mtu":null,"features":[],"queues":[{{"rx":{traffic},"tx":{traffic},
            "notifications_sent":0,"notifications_received":0,"rescues":0}}],
            "dma":{{"mode":"direct","transfers":0,"bytes":0}}}}"#,
            1000 * n
        )
    };
    let links: Vec<_> = (0..links).map(link).collect();
    let links = links.join(",");
    let head = format!(r#""role":"master","pid":7,"version":"1","uptime_ms":{}"#, 1000 * n);
    format!(r#"{{{head},"links":[{links}]}}"#).replace('\n', " ") + "\n"
}

/// The program on a terminal.
struct Watch {
    process: Child,
    terminal: File,
    chunks: Receiver<String>,
    seen: String,
}

impl Watch {
    fn start(control: &Path, columns: u16, rows: u16) -> Self {
        Self::run(&["status", "--watch", "--control"], control, columns, rows)
    }

    fn run(words: &[&str], control: &Path, columns: u16, rows: u16) -> Self {
        let terminal: File = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap().into();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let user = OpenOptions::new().read(true).write(true).open(name).unwrap();
        resize(&terminal, columns, rows);
        let process = Command::new(env!("CARGO_BIN_EXE_boardlane"))
            .args(words)
            .arg(control)
            .stdin(Stdio::null())
            .stdout(user.try_clone().unwrap())
            .stderr(user)
            .spawn()
            .unwrap();
        let (sender, chunks) = channel();
        let mut reader = terminal.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut octets = [0; 65536];
            // It fails once nobody has the other side open.
            while let Ok(n) = reader.read(&mut octets) {
                let _ = sender.send(String::from_utf8_lossy(&octets[..n]).into_owned());
            }
        });
        Self { process, terminal, chunks, seen: String::new() }
    }

    /// Waits until what has been written since the last wait has this; gives that.
    fn wait(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(what) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.seen += &chunk,
                Err(e) => panic!("no {what:?}: {e}: {:?}", self.seen),
            }
        }
        std::mem::take(&mut self.seen)
    }

    /// Waits until the process is stopped, as the shell does (proc_pid_stat(5)).
    fn wait_stopped(&self) {
        let start = Instant::now();
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        while !stat().contains(") T ") && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

/// The lines of the last whole frame.
fn lines(seen: &str) -> Vec<&str> {
    let frame = seen.rsplit("\x1b[H").find(|frame| frame.contains("\x1b[J")).unwrap();
    let frame = frame.split("\x1b[J").next().unwrap();
    // The terminal makes two octets of a line feed.
    frame.split("\r\r\n").map(|line| line.strip_suffix("\x1b[K").unwrap_or(line)).collect()
}

#[test]
fn a_screen_is_drawn_in_place_and_the_terminal_is_as_before_afterwards() {
    let daemon = Daemon::new("watch", 40);
    let mut watch = Watch::start(&daemon.0, 100, 12);
    let seen = watch.wait("\x1b[J");
    assert!(seen.starts_with(ENTER) && !seen.contains(LEAVE), "{seen:?}");
    let first = lines(&seen);
    assert_eq!(first.len(), 12, "{first:?}");
    assert_eq!(first[0].chars().count(), 100, "{first:?}");
    assert!(
        first[0].starts_with("master, pid 7, version 1, runs 2s; 0 of 40 up; waiting: bl0, "),
        "{first:?}"
    );
    assert!(first[2].starts_with("bl0   waiting   2s  8.0kbit   10  8.0kbit   10  2.0kB  2.0kB      3  0      waiting for"), "{first:?}");
    assert!(first[2].ends_with('…') && first[2].chars().count() == 100, "{first:?}");
    assert_eq!(first[11], "… 31 more lines");

    let seen = watch.wait("\x1b[J");
    let second = lines(&seen);
    assert!(seen.starts_with("\x1b[H") && second[2].contains("waiting   3s  8.0kbit"), "{seen:?}");
    assert!(!seen.contains("\x1b[2J"), "it is drawn over, not cleared: {seen:?}");

    resize(&watch.terminal, 200, 60);
    watch.signal(Signal::WINCH);
    let seen = watch.wait("\x1b[J");
    let third = lines(&seen);
    assert_eq!((third.len(), third[2].ends_with("room for on a screen")), (42, true), "{third:?}");

    watch.signal(Signal::INT);
    watch.wait(LEAVE);
    assert_eq!(watch.process.wait().unwrap().code(), Some(0));
}

#[test]
fn whoever_is_suspended_leaves_the_terminal_to_the_shell_and_comes_back() {
    let daemon = Daemon::new("suspend", 1);
    let mut watch = Watch::start(&daemon.0, 80, 24);
    watch.wait("\x1b[J");
    watch.signal(Signal::TSTP);
    watch.wait(LEAVE);
    watch.wait_stopped();
    watch.signal(Signal::CONT);
    watch.wait(ENTER);
    watch.wait("\x1b[J");
    watch.signal(Signal::TERM);
    watch.wait(LEAVE);
    assert_eq!(watch.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_daemon_that_is_gone_is_told_on_the_screen() {
    let nowhere = Path::new("/nonexistent/master.sock");
    let mut watch = Watch::start(nowhere, 80, 24);
    let seen = watch.wait("\x1b[J");
    assert!(
        lines(&seen)[0].starts_with("boardlane: /nonexistent/master.sock: no such socket"),
        "{seen:?}"
    );
}

#[test]
fn without_a_terminal_there_is_a_block_each_second() {
    let daemon = Daemon::new("blocks", 1);
    let mut process = Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(["status", "--watch", "--control"])
        .arg(&daemon.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap()).lines();
    let lines: Vec<_> = (&mut out).take(7).map(Result::unwrap).collect();
    // Whoever has seen enough.
    drop(out);
    assert!(process.wait().unwrap().success());
    let heads: Vec<_> = lines.iter().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!((heads[0], heads[4], heads[3]), ("master", "master", ""), "{lines:?}");
    assert!(
        lines[2].ends_with("room for on a screen") && !lines.concat().contains('\x1b'),
        "{lines:?}"
    );
}

#[test]
fn a_single_table_on_a_terminal_has_no_line_that_is_wider() {
    let daemon = Daemon::new("once", 40);
    let mut once = Watch::run(&["status", "--control"], &daemon.0, 60, 10);
    let mut seen = once.wait("bl39 ");
    assert!(once.process.wait().unwrap().success());
    // The channel ends as the terminal does.
    seen.extend(once.chunks.iter());
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines.len(), 42, "all of it is there, however few rows the terminal has");
    assert!(
        lines[2..].iter().all(|line| line.chars().count() == 60 && line.ends_with('…')),
        "{seen}"
    );
}
