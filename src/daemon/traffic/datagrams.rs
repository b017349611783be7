//! UDP throughput with segmentation offload: one call sends many datagrams, one call takes many.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::tcp::keep_time;
use super::{SLICE, Throughput, is_pause};
use crate::atomic::AtomicU64;
use crate::os::netns::Namespace;
use crate::os::udp;

/// The largest payload of a UDP datagram over IPv4.
const PAYLOAD_MAX: usize = 65_535 - 20 - 8;
/// What may wait at the receiver, in bytes; the kernel's own figure holds two calls' worth.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What one measurement does.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams {
    /// How long to measure, from the first datagram on.
    pub duration: Duration,
    /// Bytes of payload in a datagram: 1..=65507.
    pub payload: u16,
}

/// Sends datagrams from `client` to `address` in `server` as fast as the kernel takes them, and counts
/// what arrives.
///
/// # Errors
/// The namespaces cannot be entered, a socket or its offload cannot be had, `stop` was set.
pub fn datagram_throughput(
    server: &Namespace,
    client: &Namespace,
    address: IpAddr,
    test: &Datagrams,
    stop: &AtomicBool,
) -> io::Result<Throughput> {
    let receiver = server.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
    let target = receiver.local_addr()?;
    let any = match address {
        IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    let sender = client.run(|| UdpSocket::bind(any))??;
    sender.connect(target)?;
    sender.set_write_timeout(Some(SLICE))?;
    receiver.set_read_timeout(Some(SLICE))?;
    udp::set_segment(&sender, test.payload)?;
    udp::set_gro(&receiver)?;
    // Without CAP_NET_ADMIN more is lost at the receiver, which its count shows.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, RECEIVE_BUFFER);
    let received = &AtomicU64::new(0);
    let done = &AtomicBool::new(false);
    let payload = usize::from(test.payload.max(1));
    thread::scope(|scope| {
        let run = || {
            thread::Builder::new()
                .spawn_scoped(scope, || receive_all(&receiver, received, done))?;
            thread::Builder::new().spawn_scoped(scope, || send_all(&sender, payload, done))?;
            keep_time(test.duration, received, &|| done.load(Ordering::Relaxed), stop, &mut |_| {})
        };
        let result = run();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn receive_all(socket: &UdpSocket, received: &AtomicU64, done: &AtomicBool) {
    let mut buffer = vec![0; PAYLOAD_MAX];
    while !done.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                received.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if is_pause(&error) => {}
            Err(_) => break,
        }
    }
}

/// A refusal (a full queue, say) loses what was to be sent, and nothing else.
fn send_all(socket: &UdpSocket, payload: usize, done: &AtomicBool) {
    let segments = (PAYLOAD_MAX / payload).clamp(1, udp::SEGMENTS_MAX);
    let buffer = vec![0x5a; (payload * segments).min(PAYLOAD_MAX)];
    while !done.load(Ordering::Relaxed) {
        let _ = socket.send(&buffer);
    }
}
