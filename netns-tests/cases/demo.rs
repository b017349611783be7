//! The demo, as the README's first command.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use boardlane::os::child;
use serde_json::Value;

use crate::world::PROGRAM;

const DIRECTORY: &str = "/run/boardlane-demo";
/// How long another demo may take.
const OTHERS_LIMIT: Duration = Duration::from_secs(60);

/// The demo's JSON, its process id, and how often it had to wait for another one.
fn run() -> (Value, u32) {
    let start = Instant::now();
    loop {
        let mut command = Command::new(PROGRAM);
        command.args(["demo", "--boards", "2", "--seconds", "1", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = child::spawn(&mut command, None).unwrap();
        let pid = process.id();
        let output = process.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let occupied = told.contains("another demo is running") || told.contains("is not a demo's");
        if occupied && start.elapsed() < OTHERS_LIMIT {
            sleep(Duration::from_millis(500));
            continue;
        }
        assert!(output.status.success(), "{}\n{told}", output.status);
        eprintln!("demo done after {:.2} s", start.elapsed().as_secs_f64());
        return (serde_json::from_slice(&output.stdout).unwrap(), pid);
    }
}

pub(crate) fn the_demo_is_ok_and_leaves_nothing() {
    let (report, pid) = run();
    assert_eq!(report["ok"], true, "{report}");
    let links = report["links"].as_array().unwrap();
    assert_eq!(links.len(), 2, "{report}");
    for (link, board) in links.iter().zip(0..) {
        assert_eq!((&link["board"], &link["name"]), (&board.into(), &format!("bl{board}").into()));
        assert!(link["features"].as_array().unwrap().contains(&"MRG_RXBUF".into()), "{link}");
        for way in ["to_board", "from_board"] {
            assert!(link["tcp_gbit_s"][way].as_f64().unwrap() > 0.0, "{link}");
        }
        assert!(link["ping_us"]["avg"].as_f64().unwrap() > 0.0, "{link}");
    }
    let cells: Vec<_> = report["matrix"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .collect();
    assert_eq!(cells.len(), 9, "{report}");
    assert!(cells.iter().all(|loss| loss.as_f64().unwrap() <= 0.0), "{report}");
    // What is there now is another demo's, if anything.
    if let Ok(journal) = fs::read_to_string(Path::new(DIRECTORY).join("journal")) {
        assert!(!journal.contains(&format!("demo {pid}\n")), "{journal}");
    } else {
        let left: Vec<_> = ["bl-master", "bl-board0", "bl-board1"]
            .into_iter()
            .filter(|name| Path::new("/run/netns").join(name).exists())
            .collect();
        assert!(left.is_empty() || Path::new(DIRECTORY).exists(), "{left:?}");
    }
}
