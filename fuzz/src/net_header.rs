//! virtio-net headers: what is accepted from the other end is what the kernel's TAP accepts.
//!
//! The TAP needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN, and lives in a network namespace of its own
//! for as long as the process does. Where it cannot be had, [`missing`] says why, and headers are judged
//! without it.

use std::process::Command;
use std::sync::OnceLock;

use boardlane::net::frame::{LARGEST, Offloads, PREFIX_LEN, check};
use boardlane::os::netns::Namespace;
use boardlane::os::tap::{IoSpan, Tap, Write};
use boardlane::spec::net::HEADER_LEN;

use super::octets::Octets;

/// Judges a header, and has the kernel judge what passes.
pub fn run(data: &[u8]) {
    let mut script = Octets(data);
    let offers = script.u8();
    let on = |bit: u8| offers & (1 << bit) != 0;
    let allowed = Offloads { csum: on(0), tso4: on(1), tso6: on(2), ecn: on(3), uso: on(4) };
    let more = match script.u8() {
        few @ 0..=0xdf => few.into(),
        0xe0..=0xf7 => usize::from(script.u16()) % LARGEST,
        edge => LARGEST + 4 - usize::from(edge),
    };
    let mut frame = script.0[..script.0.len().min(LARGEST)].to_vec();
    frame.resize((frame.len() + more).min(LARGEST + 8), 0);
    let prefix = &frame[..frame.len().min(PREFIX_LEN)];
    let verdict = check(prefix, frame.len(), allowed);
    assert_eq!(verdict, check(prefix, frame.len(), allowed));
    if verdict.is_err() {
        return;
    }
    // What all offloads allow, fewer may not; what fewer allow, all do.
    let all = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: true };
    assert_eq!(check(prefix, frame.len(), all), Ok(()));
    if let Ok(tap) = tap() {
        let written = tap.write_from(&[IoSpan::private(&frame)]).expect("the TAP is there");
        let (header, packet) = frame.split_at(HEADER_LEN);
        let start = &packet[..packet.len().min(64)];
        assert_eq!(written, Write::Sent, "{header:02x?} {} bytes: {start:02x?}", packet.len());
    }
}

/// Why there is no TAP to ask.
pub fn missing() -> Option<&'static str> {
    tap().as_ref().err().map(String::as_str)
}

/// The process's TAP, up and with its carrier.
fn tap() -> &'static Result<Tap, String> {
    static TAP: OnceLock<Result<Tap, String>> = OnceLock::new();
    TAP.get_or_init(|| {
        let tap = make_tap();
        if let Err(why) = &tap {
            eprintln!("no TAP is asked: {why}");
        }
        tap
    })
}

fn make_tap() -> Result<Tap, String> {
    let name = format!("boardlane-fuzz-{}", std::process::id());
    let namespace = Namespace::create(&name).map_err(|e| e.to_string())?;
    let tap = namespace.run(up);
    // The TAP keeps the namespace; its name is not needed any more.
    Namespace::remove(&name).map_err(|e| e.to_string())?;
    tap.map_err(|e| e.to_string())?
}

fn up() -> Result<Tap, String> {
    let tap = Tap::create("fuzz0", false).map_err(|e| e.to_string())?;
    tap.set_carrier(true).map_err(|e| e.to_string())?;
    let ip = Command::new("ip").args(["link", "set", "fuzz0", "up"]).status();
    match ip {
        Ok(status) if status.success() => Ok(tap),
        Ok(status) => Err(format!("ip: {status}")),
        Err(error) => Err(format!("ip: {error}")),
    }
}
