//! A PCI bus that is real to those on it: guests of QEMU in whose machine a backplane's slot is a PCI
//! function, ivshmem-doorbell, with config space, BARs and MSI-X; with the stock Linux, emulated.
//! Other stories need a guest for its kernel, which has kinds of netdevs that the one at hand may lack, or
//! for its octet order.
//!
//! Each story prints what the guest sees: PCI functions, interrupts before and after traffic, features
//! negotiated, echoes and TCP's throughput. `.ci/peers` gets what they need, and runs them. It puts the
//! program to test, linked statically, into BOARDLANE_GUEST_PROGRAM; without that, guests have cargo's
//! own, with its libraries.
//!
//! Each story is a process of its own (see [`case`]). It needs root, /dev/net/tun, and what `.ci/peers`
//! installs and unpacks; without them stories are ignored, with the reason; where `CI=true` says that
//! they must run, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it saw"
)]

mod bus;
#[path = "../case.rs"]
mod case;
mod cases;
#[path = "../../tests/peers/guest.rs"]
#[allow(dead_code, reason = "a part of it is for vhost-user")]
mod guest;
#[path = "../../tests/peers/image.rs"]
mod image;
#[path = "../../tests/peers/lane.rs"]
#[allow(dead_code, reason = "a part of it is for testpmd")]
mod lane;
#[path = "../../tests/peers/place.rs"]
mod place;
#[path = "../../tests/peers/talk.rs"]
mod talk;
#[path = "../../tests/peers/testpmd.rs"]
#[allow(dead_code, reason = "it is for lanes whose other end it is")]
mod testpmd;
#[path = "../world.rs"]
#[allow(dead_code, reason = "a part of it is for links without a guest")]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Arguments;

use guest::Qemu;

/// A story that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(case::ARGUMENT) {
        let name = words.next().unwrap_or_default();
        let story = cases::ALL.iter().find(|story| story.name == name);
        (story.expect("the name of a story").run)();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // A guest is emulated by a processor, and what it talks to needs the other one.
    arguments.test_threads = Some(1);
    let missing =
        if arguments.list { None } else { case::missing().or_else(|| place::missing().err()) };
    if !arguments.list && missing.is_none() {
        eprintln!("guests: {}", guest::version_of(Qemu::Later));
    }
    let trials = cases::ALL.iter().map(|story| {
        case::trial(story.name.to_owned(), missing.clone(), |name| {
            case::run(name, LIMIT, ("RUST_BACKTRACE", "0"))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
