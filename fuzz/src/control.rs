//! What a client writes to a daemon's control socket: in pieces, and with pauses.
//!
//! Each line has one answer at most, of one line; a client that comes afterwards is answered.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boardlane::daemon::capture::{Captures, Wanted};
use boardlane::daemon::control::{ControlSocket, REQUEST_MAX};
use boardlane::daemon::probe::window::LinkProbe;
use boardlane::daemon::reload::{ReloadError, Report};
use boardlane::daemon::status::Status;
use boardlane::os::access::Access;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::octets::Octets;
use super::sockets::{Dir, STEPS, run_closed};

/// Runs a script.
pub fn run(data: &[u8]) {
    let dir = Dir::new("control");
    let path = dir.path().join("control.sock");
    run_closed(async {
        let socket =
            ControlSocket::bind(&path, &Access::default()).expect("nobody else has the path");
        let status = || Status { role: "agent".into(), pid: 1, ..Status::default() };
        let probe = |link: &str| (link == "bl0").then(LinkProbe::default);
        let capture = |wanted: &Wanted| {
            let session = Arc::<Captures>::default().begin(wanted, 1)?;
            let begun = session.begun("agent".into());
            Ok((session, begun))
        };
        let reload = || tokio::spawn(async { Ok::<_, ReloadError>(Report::default()) });
        let clients = async {
            talk(&path, &mut Octets(data)).await;
            let answer = ask(&path, &[b"{\"request\":\"status\"}\n"]).await;
            assert!(answer.starts_with("{\"role\":\"agent\""), "{answer}");
        };
        tokio::select! {
            () = socket.serve(status, probe, capture, reload) => unreachable!("it serves until it is dropped"),
            () = clients => {}
        }
    });
}

/// A client of the script's.
async fn talk(path: &Path, script: &mut Octets<'_>) {
    let pauses = script.u8();
    let mut pieces = Vec::new();
    while !script.is_empty() && pieces.len() < STEPS {
        // Large ones too: a request has 4096 bytes at most.
        let (len, times) = (script.u8(), script.choose(&[1, 1, 1, 20]));
        pieces.push(script.take(len.into()).repeat(times));
    }
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let answer = if pauses < 0x10 {
        let mut stream = UnixStream::connect(path).await.expect("a daemon listens");
        for piece in pieces {
            let _ = stream.write_all(piece).await;
            sleep(Duration::from_millis(u64::from(pauses) * 500)).await;
        }
        return;
    } else {
        ask(path, &pieces).await
    };
    let asked = pieces.concat().iter().filter(|octet| **octet == b'\n').count();
    assert!(answer.lines().count() <= asked + 1, "{answer}");
    for line in answer.lines() {
        assert!(line.len() < 8 * REQUEST_MAX && line.starts_with('{') && line.ends_with('}'));
        assert!(!line.contains(|c| c < ' '), "{line}");
    }
}

/// Writes all, and reads what comes until the daemon hangs up.
async fn ask(path: &Path, pieces: &[&[u8]]) -> String {
    let mut stream = UnixStream::connect(path).await.expect("a daemon listens");
    for piece in pieces {
        // It may have hung up already.
        let _ = stream.write_all(piece).await;
    }
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("JSON is UTF-8")
}
