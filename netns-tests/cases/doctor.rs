//! What `boardlane doctor` says of a machine on which daemons run, were killed, or hang.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{PROGRAM, World};

/// The exit status, and the findings about the machine with this config: verdict, check, found.
fn doctor(world: &World, machine: &str) -> (i32, Vec<[String; 3]>) {
    let config = world.config(machine).display().to_string();
    let output = world.run(machine, &[PROGRAM, "doctor", "--json", &config]);
    let out: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let findings = out["findings"].as_array().unwrap().iter().map(|finding| {
        ["verdict", "check", "found"].map(|key| finding[key].as_str().unwrap().to_owned())
    });
    assert_eq!(out["ok"], output.status.success());
    (output.status.code().unwrap(), findings.collect())
}

/// Whether there is a finding with this verdict and check that has this in it.
fn has(findings: &[[String; 3]], verdict: &str, check: &str, text: &str) -> bool {
    findings.iter().any(|[v, c, found]| v == verdict && c == check && found.contains(text))
}

pub(crate) fn a_machine_at_work_is_well_and_what_goes_wrong_is_told() {
    let mut world = World::running(1, |_, _| String::new());
    let before = world.ip("master", "link show").len();
    let (status, findings) = doctor(&world, "master");
    assert_eq!(status, 0, "{findings:#?}");
    let master = format!("master, pid {}", world.pid("master"));
    assert!(has(&findings, "ok", "daemons", &format!("{master}: 1 links are up")), "{findings:#?}");
    for check in ["kernel", "tun", "rights", "config", "ipv6", "backplane"] {
        assert!(has(&findings, "ok", check, ""), "{check}: {findings:#?}");
    }
    assert_eq!(world.ip("master", "link show").len(), before, "nothing is changed");

    world.kill("board0");
    world.kill("backplane");
    fs::remove_file(world.slot(0)).unwrap();
    let (status, findings) = doctor(&world, "master");
    assert_eq!(status, 1, "{findings:#?}");
    assert!(has(&findings, "warn", "links", &format!("{master}: bl0: ")), "{findings:#?}");
    let socket = world.slot(0).display().to_string();
    assert!(
        has(&findings, "fail", "backplane", &format!("no socket {socket} of bl0")),
        "{findings:#?}"
    );

    // One that hangs holds up nobody for long.
    world.signal("master", Signal::STOP);
    let start = Instant::now();
    let (_, findings) = doctor(&world, "master");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let control = world.directory("master").join("control.sock").display().to_string();
    assert!(has(&findings, "warn", "daemons", &control), "{findings:#?}");
    world.signal("master", Signal::CONT);

    world.kill("master");
    let (_, findings) = doctor(&world, "master");
    assert!(has(&findings, "warn", "leftovers", "netdev bl0"), "{findings:#?}");
    assert!(world.netdev("master", "bl0").is_some(), "it is only told");
    world.start("backplane");

    let wrong = world.link("bl0", 0, 1, "mtu = 1");
    world.configure("master", &wrong);
    let config = world.config("master").display().to_string();
    let output = world.run("master", &[PROGRAM, "doctor", &config]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(complaint.contains("mtu 1 is out of range"), "{complaint}");
}

pub(crate) fn two_daemons_with_one_control_socket_are_told() {
    let mut world = World::running(1, |_, _| String::new());
    let control = world.directory("master").join("control.sock");
    let text = format!("control = \"{}\"\n{}", control.display(), world.link("bl9", 3, 2, ""));
    world.add_machine("agent1");
    fs::write(world.config("agent1"), text).unwrap();
    let (status, findings) = doctor(&world, "agent1");
    let found = format!("process {}, which is master, has the control socket", world.pid("master"));
    assert!(status == 1 && has(&findings, "fail", "daemons", &found), "{findings:#?}");
    // As it would meet it itself.
    world.start("agent1");
    assert_eq!(world.wait_end("agent1").code(), Some(1));
    let held = format!("another daemon holds {}: stop it", control.display());
    assert!(world.log("agent1").contains(&held), "{}", world.log("agent1"));
}
