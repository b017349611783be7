//! What `boardlane capture` does: has a daemon begin, and writes what comes as pcapng.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::system::uname;

use super::pcapng::{self, Statistics};
use super::ring::Consumer;
use super::writer::{End, Writer};
use super::{Begun, FORMAT, Wanted};
use crate::daemon::control::client::{
    ANSWER_TIMEOUT, ClientError, ask_all, asked, send, understand,
};
use crate::daemon::status::Status;
use crate::daemon::{VERSION, interrupt};
use crate::os::broker::{ReceiveError, receive};
use crate::os::fabric::memfd;

/// So long may a reader take for the last octets.
const GRACE: Duration = Duration::from_secs(1);
/// Between looks whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What to capture, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is wanted of which link.
    pub wanted: Wanted,
    /// The file to write; none: standard output.
    pub file: Option<PathBuf>,
    /// The daemon's socket; otherwise that of the one in [`RUN_DIR`](crate::daemon::config::RUN_DIR) that
    /// has the link.
    pub control: Option<PathBuf>,
    /// It ends after so many frames.
    pub count: Option<u64>,
}

/// Why a capture did not begin, or not end as its user meant it to.
#[derive(Debug)]
pub enum Error {
    /// In one line.
    Run(String),
    /// Standard output does not take what is written.
    Output(io::Error),
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Run(text)
    }
}

/// Captures until a signal, the count, or the end of the daemon or the reader; `tell` gets lines for
/// people.
///
/// # Errors
/// What kept it from beginning, or ended it.
pub fn capture(options: &Options, tell: impl Fn(&str)) -> Result<(), Error> {
    let Wanted { link, snaplen, .. } = &options.wanted;
    let control = find(link, options.control.clone())?;
    let begun = begin(&control, &options.wanted);
    let (connection, begun, rings) = begun.map_err(|e| format!("{}: {e}", control.display()))?;
    let out = match &options.file {
        Some(path) => open(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None => File::from(io::stdout().as_fd().try_clone_to_owned().map_err(Error::Output)?),
    };
    // Not before: a FIFO that nobody reads holds who opens it, until a signal ends the process.
    let stop = interrupt::watch().map_err(|e| format!("signals: {e}"))?;
    let end = format!("the {}'s end of the boardlane link {link}", begun.role);
    tell(&format!("capturing {end}, of {}", control.display()));
    let start = describe(link, &end, *snaplen);
    let writer = Writer::new(rings, out, start, connection, stop.clone(), options.count);
    let (totals, end) = write(writer, &stop)?;
    let Statistics { written, lost, .. } = totals;
    let frames = if written == 1 { "frame" } else { "frames" };
    tell(&format!("{written} {frames} written, {lost} lost by the capture"));
    match (end, &options.file) {
        (End::Wanted, _) => Ok(()),
        (End::Daemon(why), _) => Err(format!("{}: {why}", control.display()).into()),
        (End::Output(e), None) => Err(Error::Output(e)),
        (End::Output(e), Some(path)) => Err(format!("{}: {e}", path.display()).into()),
    }
}

/// The socket of the one daemon that has a link of this name.
fn find(link: &str, control: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(control) = control {
        return Ok(control);
    }
    let paths = asked(None)?;
    let names = |(path, answer): (&PathBuf, Result<(_, Status), ClientError>)| {
        let links = answer.map(|(_, daemon)| daemon.links.into_iter().map(|it| it.name).collect());
        (path.clone(), links.map_err(|e| e.to_string()))
    };
    choose(link, ask_all(&paths).into_iter().map(names).collect())
}

/// The one of these sockets whose daemon has a link of this name, by the names that each has.
fn choose(
    link: &str,
    daemons: Vec<(PathBuf, Result<Vec<String>, String>)>,
) -> Result<PathBuf, String> {
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for (path, links) in daemons {
        match links {
            Ok(links) if links.iter().any(|it| it == link) => holders.push(path),
            Ok(links) => others.push(format!("{}: {}", path.display(), links.join(", "))),
            Err(e) => others.push(format!("{}: {e}", path.display())),
        }
    }
    let several = holders.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    match holders.pop() {
        None => Err(format!("no daemon has a link {link}; there are: {}", others.join("; "))),
        Some(path) if holders.is_empty() => Ok(path),
        Some(_) => Err(format!(
            "more than one daemon has a link {link}: choose by --control {}",
            several.join(", or ")
        )),
    }
}

/// Has the daemon begin: the connection by which it goes on, and the rings.
fn begin(
    control: &Path,
    wanted: &Wanted,
) -> Result<(UnixStream, Begun, Vec<Consumer>), ClientError> {
    let strange = |what: &str| ClientError::Io(io::Error::other(what));
    let mut request = serde_json::to_value(wanted).unwrap_or_default();
    request["request"] = "capture".into();
    let stream = send(control, &request.to_string(), ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let message = receive(&stream).map_err(|e| match e {
        ReceiveError::Closed => ClientError::Cut,
        ReceiveError::Bad => ClientError::TooLong,
        ReceiveError::Os(e) if e.kind() == io::ErrorKind::WouldBlock => {
            ClientError::Silent(ANSWER_TIMEOUT)
        }
        ReceiveError::Os(e) => e.into(),
    })?;
    let begun: Begun = understand(&String::from_utf8_lossy(&message.octets))?;
    if begun.format != FORMAT {
        return Err(strange("the daemon's capture has another format: it is of another version"));
    }
    let [memory] = &*message.fds else { return Err(strange("the daemon sent no memory")) };
    let (memory, len) = memfd::map(memory).map_err(|e| strange(&e.to_string()))?;
    let ring_len = begun.ring_len as usize;
    let fits = u64::from(begun.rings) * u64::from(begun.ring_len) <= len && ring_len % 8 == 0;
    if !fits {
        return Err(strange("the daemon's memory is too small"));
    }
    let ring = |n| Consumer::new(memory.clone(), usize::from(n) * ring_len, ring_len);
    let rings = (0..begun.rings).map(ring).collect();
    stream.set_nonblocking(true)?;
    Ok((stream, begun, rings))
}

/// A file whose frames are nobody else's business.
fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// What stands before the first frame.
fn describe(link: &str, description: &str, snaplen: u32) -> Vec<u8> {
    let system = uname();
    let [hardware, name, release] =
        [system.machine(), system.sysname(), system.release()].map(|it| it.to_string_lossy());
    let mut octets = Vec::new();
    let application = format!("boardlane {VERSION}");
    pcapng::section_header(&mut octets, &hardware, &format!("{name} {release}"), &application);
    pcapng::interface_description(&mut octets, link, description, snaplen);
    octets
}

/// Writes on a thread of its own, so that a reader who takes nothing, as a stopped tshark, does not keep the
/// program from ending.
fn write(writer: Writer, stop: &Arc<AtomicBool>) -> Result<(Statistics, End), Error> {
    let (ended, end) = mpsc::channel();
    let run = move || drop(ended.send(writer.run()));
    thread::Builder::new().spawn(run).map_err(|e| format!("starting a thread: {e}"))?;
    let mut stopped = None;
    loop {
        match end.recv_timeout(LOOK) {
            Ok(end) => return Ok(end),
            Err(RecvTimeoutError::Disconnected) => return Err("it panicked".to_owned().into()),
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
            Err(RecvTimeoutError::Timeout) => {
                if stopped.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    let what = "the reader does not take what is captured: the end of it is lost";
                    return Err(what.to_owned().into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_daemon_that_has_the_link_is_asked() {
        let daemon = |path: &str, links: &[&str]| {
            (PathBuf::from(path), Ok(links.iter().map(|name| (*name).to_owned()).collect()))
        };
        let both = || vec![daemon("/a", &["bl0", "bl1"]), daemon("/m", &["bl0"])];
        assert_eq!(choose("bl1", both()), Ok("/a".into()));
        let several = choose("bl0", both()).unwrap_err();
        assert!(several.ends_with("choose by --control /a, or /m"), "{several}");
        let mut all = both();
        all.push((PathBuf::from("/x"), Err("gone".to_owned())));
        let none = choose("bl2", all).unwrap_err();
        assert_eq!(none, "no daemon has a link bl2; there are: /a: bl0, bl1; /m: bl0; /x: gone");
    }
}
