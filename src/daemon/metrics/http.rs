//! As much of HTTP (RFC 9112) as one page needs: `GET` and `HEAD` of `/metrics`, one request a connection.
//!
//! `httparse` reads the request: it is small, needs nothing else, and is what hyper itself reads with; hyper
//! would be twenty crates for what it adds, as there are no bodies, no pipelines and no TLS here.
//!
//! Bounds: a request has 8 KiB and 64 fields at most, a client five seconds for all of it, and 16 clients are
//! served at once. With all places taken, whoever comes next gets that of the one who has had his for
//! longest, once he has had it for a tenth of a second; an answer takes a hundredth of that. So clients that
//! ask slowly, or do not read, hold up one who does by little, and the links by nothing: each client is a
//! future that waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::daemon::config::Metrics as Place;
use crate::os::log::Log;

/// Longest request, in bytes.
const REQUEST_MAX: usize = 8192;
/// Most fields of its header.
const FIELDS_MAX: usize = 64;
/// At most so many clients are served at once.
const CLIENTS_MAX: usize = 16;
/// A client has so long for all that it does.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// It has its place for so long, whoever else comes.
const GRACE: Duration = Duration::from_millis(100);
/// Of what a client sends beyond its request so much is read, in bytes: the kernel would cut off the answer if
/// it was not.
const BEYOND_MAX: usize = 64 << 10;

/// What the body is written in.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite {}
impl<S: AsyncRead + AsyncWrite> Stream for S {}

impl Listener {
    /// Over a socket that listens at this place.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(super) fn over(fd: OwnedFd, place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(_) => {
                let socket = std::net::TcpListener::from(fd);
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Self::Tcp)
            }
            Place::Unix(_) => {
                let socket = std::os::unix::net::UnixListener::from(fd);
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        Ok(match self {
            Self::Tcp(socket) => Box::pin(socket.accept().await?.0),
            Self::Unix(socket) => Box::pin(socket.accept().await?.0),
        })
    }
}

/// A client that is served.
struct Client {
    number: u64,
    since: Instant,
    /// Ends it when it is dropped.
    _stay: oneshot::Sender<()>,
}

/// Answers clients until the future is dropped; `body` gives the page.
pub(super) async fn serve(listener: &Listener, body: impl Fn() -> String) {
    let (log, mut talks, mut numbers) = (Log::new("metrics"), FuturesUnordered::new(), 0..);
    // Those who came first are first.
    let mut clients: VecDeque<Client> = VecDeque::new();
    loop {
        let oldest = clients.front().filter(|_| clients.len() >= CLIENTS_MAX);
        let next = oldest.map(|client| client.since + GRACE);
        let is_full = next.is_some_and(|next| Instant::now() < next);
        tokio::select! {
            Some(number) = talks.next(), if !talks.is_empty() => {
                clients.retain(|client| client.number != number);
            }
            accepted = listener.accept(), if !is_full => match accepted {
                Ok(stream) => {
                    if clients.len() >= CLIENTS_MAX {
                        clients.pop_front();
                    }
                    let number = numbers.next().unwrap_or(0_u64);
                    let (stay, leave) = oneshot::channel::<()>();
                    clients.push_back(Client { number, since: Instant::now(), _stay: stay });
                    let talk = timeout(CLIENT_TIMEOUT, talk(stream, &body));
                    talks.push(async move {
                        tokio::select! {
                            // One who goes away, or has had his time, has had all that he gets.
                            _ = talk => {}
                            _ = leave => {}
                        }
                        number
                    });
                }
                Err(error) => {
                    log.warn(format_args!("a client was not accepted: {error}"));
                    tokio::time::sleep(GRACE).await;
                }
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if is_full => {}
        }
    }
}

/// Answers one request.
async fn talk(mut stream: Pin<Box<dyn Stream>>, body: impl Fn() -> String) -> io::Result<()> {
    let mut octets = Vec::with_capacity(1024);
    let asked = loop {
        let mut piece = [0; 1024];
        let room = piece.len().min(REQUEST_MAX - octets.len());
        match stream.read(&mut piece[..room]).await? {
            0 => return Ok(()),
            n => octets.extend_from_slice(&piece[..n]),
        }
        match read(&octets) {
            Some(asked) => break asked,
            None if octets.len() >= REQUEST_MAX => break Asked::Refused(431),
            None => {}
        }
    };
    stream.write_all(&answer(asked, body)).await?;
    stream.shutdown().await?;
    let (mut piece, mut beyond) = ([0; 1024], 0);
    while beyond < BEYOND_MAX {
        match stream.read(&mut piece).await? {
            0 => break,
            n => beyond += n,
        }
    }
    Ok(())
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The page.
    Page,
    /// Its header.
    Header,
    /// Something that gets this status.
    Refused(u16),
}

/// What is asked for, once the request is whole.
fn read(octets: &[u8]) -> Option<Asked> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(octets) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Asked::Refused(431)),
        Err(httparse::Error::Version) => return Some(Asked::Refused(505)),
        Err(_) => return Some(Asked::Refused(400)),
    }
    let target = request.path.unwrap_or_default();
    // A server has to take a whole address, too (RFC 9112 §3.2.2).
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let is_page = path.split('?').next() == Some("/metrics");
    Some(match request.method {
        Some("GET" | "HEAD") if !is_page => Asked::Refused(404),
        Some("GET") => Asked::Page,
        Some("HEAD") => Asked::Header,
        _ => Asked::Refused(405),
    })
}

fn answer(asked: Asked, body: impl Fn() -> String) -> Vec<u8> {
    let (status, page) = match asked {
        Asked::Page | Asked::Header => (200, body()),
        Asked::Refused(status) => (status, format!("{}\n", reason(status))),
    };
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {TEXT}\r\nContent-Length: {}\r\n{allow}\
         Connection: close\r\n\r\n",
        reason(status).split(':').next().unwrap_or_default(),
        page.len()
    );
    if asked != Asked::Header {
        text.push_str(&page);
    }
    text.into_bytes()
}

/// What a status means; behind a colon, what to do.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        404 => "Not Found: metrics are at /metrics",
        405 => "Method Not Allowed: use GET or HEAD",
        431 => "Request Header Fields Too Large: 64 fields and 8 KiB at most",
        505 => "HTTP Version Not Supported: use 1.0 or 1.1",
        _ => "Bad Request",
    }
}

#[cfg(test)]
mod tests;
