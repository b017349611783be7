//! Peers of another make: DPDK's testpmd as virtio driver and as device, guests of QEMU with the stock
//! Linux driver.
//!
//! `.ci/peers` gets them. First come stories in which those peers meet each other: they prove what is
//! needed to run them, and that a failure beside boardlane is not theirs. A story prints the peers'
//! versions and the features that were negotiated.
//!
//! Each story is a process of its own (see [`case`]). It needs root, /dev/net/tun, and what `.ci/peers`
//! installs and unpacks; without them stories are ignored, with the reason; where `CI=true` says that
//! they must run, they fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it saw"
)]

#[path = "../../netns-tests/case.rs"]
mod case;
mod cases;
#[allow(dead_code, reason = "a part of it is for the guests of netns-tests")]
mod guest;
mod image;
mod lane;
mod place;
mod talk;
mod testpmd;
#[path = "../../netns-tests/world.rs"]
#[allow(dead_code, reason = "a part of it is for links through a backplane")]
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
    // testpmd takes all of the processor that it forwards on, and a guest is emulated by another.
    arguments.test_threads = Some(1);
    let missing =
        if arguments.list { None } else { case::missing().or_else(|| place::missing().err()) };
    if !arguments.list && missing.is_none() {
        let qemu = [Qemu::System, Qemu::Later].map(guest::version_of).join(", ");
        eprintln!("peers: {}, {qemu}", testpmd::version());
    }
    let trials = cases::ALL.iter().map(|story| {
        case::trial(story.name.to_owned(), missing.clone(), |name| {
            case::run(name, LIMIT, ("RUST_BACKTRACE", "0"))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
