//! The cases of `netns-tests` that need the kernel's vhost-net, in a guest whose kernel has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::guest::{Guest, Plan};
use crate::world::{PROGRAM, World};

/// For all of the cases of a story; each has its own, too.
const LIMIT: Duration = Duration::from_secs(160);

/// The program with the cases, the last one that was built: cargo tells only itself where it is.
fn cases() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let files = fs::read_dir(own.parent().unwrap()).unwrap().flatten().filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("netns-") && !name.contains('.')
    });
    let built = |file: &fs::DirEntry| file.metadata().and_then(|of| of.modified());
    let last = files.max_by_key(|file| built(file).unwrap_or(SystemTime::UNIX_EPOCH));
    last.expect("the program of `cargo test --no-run --test netns`").path()
}

/// A program without what only a debugger reads: it is nine tenths, and a guest has it in memory.
fn stripped(world: &World, program: &Path, name: &str) -> PathBuf {
    let to = world.directory("master").join(name);
    let status = Command::new("strip").arg("-o").args([&to, &program.to_owned()]).status();
    assert!(status.unwrap().success());
    to
}

/// Runs the cases that these words choose.
fn passes(filter: &str) {
    let mut world = World::new(0, |_, _| String::new());
    let program = stripped(&world, Path::new(PROGRAM), "boardlane");
    let cases = stripped(&world, &cases(), "cases");
    let plan = Plan {
        processors: 2,
        modules: &["tun", "vhost_net"],
        programs: &["ip", "ping"],
        files: vec![(program, PROGRAM), (cases, "bin/cases")],
        ..Plan::default()
    };
    let mut guest = Guest::start(&mut world, "guest", "master", &plan);
    guest.run_well("mkdir -p /run /etc && ls -l /dev/vhost-net /dev/net/tun && export PATH=/bin");
    let run = format!("PATH=/bin CI=true cases {filter} --test-threads 1");
    let (status, text) = guest.run_within(&run, LIMIT);
    eprintln!("{text}");
    assert!(status == 0 && !text.contains("running 0 tests"), "{filter}: {status}");
    guest.kill(&mut world);
}

pub(super) fn links_of_boards_are_served_by_a_guests_kernel() {
    passes("vhost_net:: --skip each_feature");
}

pub(super) fn links_without_a_feature_are_served_by_a_guests_kernel() {
    passes("vhost_net::each_feature");
}

pub(super) fn stock_drivers_are_served_by_a_guests_kernel() {
    passes("by_vhost_net");
}
