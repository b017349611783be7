//! Messages of one byte over TCP that come back, each sent once the last one is back.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::tcp::accept_all;
use super::{Flow, SLICE, connect, is_pause, listen, stopped};
use crate::os::netns::Namespace;

/// Exchanges messages for `duration` over one connection, between `client` and a listener on `address` in
/// `server`; gives each round trip. Without Nagle's delay at either end.
///
/// # Errors
/// The namespaces cannot be entered; the connection is not there within five seconds, or breaks; `stop`
/// was set.
pub fn message_round_trips(
    server: &Namespace,
    client: &Namespace,
    address: IpAddr,
    duration: Duration,
    stop: &AtomicBool,
) -> io::Result<Vec<Duration>> {
    let listener = server.run(move || listen(SocketAddr::new(address, 0)))??;
    let target = listener.local_addr()?;
    let stream = client.run(move || connect(target))??;
    let flow = Flow { listener, clients: vec![stream] };
    let mut ends = accept_all(&flow, stop)?;
    ends.extend(flow.clients);
    for end in &ends {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(SLICE))?;
        end.set_write_timeout(Some(SLICE))?;
    }
    let [mut answering, mut asking] =
        <[TcpStream; 2]>::try_from(ends).map_err(|_| io::Error::other("not one connection"))?;
    let done = &AtomicBool::new(false);
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, move || {
            // The asking end tells of a connection that breaks.
            while receive(&mut answering, done).is_ok() && answering.write_all(&[0]).is_ok() {}
        })?;
        let result = ask(&mut asking, duration, stop);
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn ask(stream: &mut TcpStream, duration: Duration, stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut round_trips = Vec::new();
    let began = Instant::now();
    let mut sent = began;
    while sent.duration_since(began) < duration {
        stream.write_all(&[0])?;
        receive(stream, stop)?;
        let back = Instant::now();
        round_trips.push(back.duration_since(sent));
        sent = back;
    }
    Ok(round_trips)
}

fn receive(stream: &mut TcpStream, stop: &AtomicBool) -> io::Result<()> {
    loop {
        stopped(stop)?;
        match stream.read(&mut [0]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
}
