//! Who may come to a socket, as its config says.

use std::os::unix::fs::MetadataExt;
use std::process::Output;

use boardlane::daemon::status::LinkState;

use crate::world::{PROGRAM, World, check, wait};

/// Starts a program as root that may give files away, and is let to no more of them than others.
const FEW_RIGHTS: [&str; 2] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"];

/// Runs a command of the program on the master's control socket as the user and group 65534; its exit
/// status and all that it says.
fn as_nobody(world: &World, command: &[&str]) -> (i32, String) {
    // Not everybody may come where it was built.
    let program = world.directory("master").join("boardlane");
    std::fs::copy(PROGRAM, &program).unwrap();
    let control = world.directory("master").join("control.sock");
    let [program, control] = [&program, &control].map(|path| path.to_str().unwrap());
    let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let words = [&setpriv[..], &[program], command, &["--control", control]].concat();
    let Output { status, stdout, stderr } = world.run("master", &words);
    let text = [stdout, stderr].map(|octets| String::from_utf8(octets).unwrap()).concat();
    (status.code().unwrap(), text)
}

pub(crate) fn a_client_without_the_right_is_refused() {
    let mut world = World::new(1, |_, _| String::new());
    let link = world.link("bl0", 0, 1, "");
    world.start("backplane");
    let no = "permission denied: run as root or the daemon's user";
    let look = "only root, the user of the daemon and the owner of its socket may change something";
    let frames = "only root, the user of the daemon and the owner of its socket may see frames";
    for (keys, status, reload) in [
        ("", no, no),
        ("control_mode = \"0660\"\n", no, no),
        ("control_mode = \"0660\"\ncontrol_owner = \":65534\"\n", "master, pid", look),
        ("control_mode = \"0640\"\ncontrol_owner = \":65534\"\n", no, no),
        ("control_mode = \"0666\"\n", "master, pid", look),
        ("control_owner = \"65534\"\n", "master, pid", "1 unchanged"),
    ] {
        world.configure("master", &format!("{keys}{link}"));
        world.start_as("master", &FEW_RIGHTS);
        world.wait_state("master", "bl0", LinkState::Waiting, "");
        let capture = if reload == look { frames } else { reload };
        for (command, expected) in [
            (&["status"][..], status),
            (&["reload"], reload),
            (&["capture", "--link", "bl7"], if reload == "1 unchanged" { "bl7" } else { capture }),
        ] {
            let (code, said) = as_nobody(&world, command);
            assert!(said.contains(expected), "{keys}{command:?}: {said}");
            let bad = [no, look, frames, "bl7"].contains(&expected);
            assert_eq!(code, i32::from(bad), "{keys}{said}");
        }
        // The socket of one that was killed is replaced, whoever it belongs to.
        world.kill("master");
    }
    world.configure("master", &link);
    world.start_as("master", &FEW_RIGHTS);
    world.wait_state("master", "bl0", LinkState::Waiting, "");
    assert!(world.stop("master").success());
    assert!(!world.directory("master").join("control.sock").exists());
}

pub(crate) fn a_slot_belongs_to_whom_the_backplane_is_told() {
    let mut world = World::running(1, |_, _| String::new());
    world.stop("backplane");
    let directory = world.slot(0).parent().unwrap().to_str().unwrap().to_owned();
    let owner = ["--owner", ":65534", "--mode", "0660"];
    for owner in [&owner[..], &["--owner", "65534"]] {
        let slots = [PROGRAM, "backplane", "--slots", "2", "--dir", &directory];
        let words = [&FEW_RIGHTS[..], &slots, owner].concat();
        world.start_words("backplane", "backplane", &words);
        wait("the slot is there", || {
            let file = std::fs::symlink_metadata(world.slot(0)).map_err(|e| e.to_string())?;
            let seen = (file.mode() & 0o7777, file.uid(), file.gid());
            let expected = if owner.len() > 2 { (0o660, 0, 65534) } else { (0o600, 65534, 0) };
            check(seen == expected, seen)
        });
        // The next one replaces what it leaves.
        world.kill("backplane");
    }
    world.start_as("backplane", &FEW_RIGHTS);
    world.wait_up(0);
}
