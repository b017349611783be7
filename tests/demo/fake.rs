//! Daemons for the demo that are none: an agent makes a veth pair, the master sets its ends up, both
//! answer on their control sockets. `FAULT` in the environment makes them misbehave.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use boardlane::daemon::Role;
use boardlane::daemon::config::{Config, LinkConfig};
use boardlane::daemon::control::ControlSocket;
use boardlane::daemon::status::Status;
use tokio::signal::unix::{SignalKind, signal};

/// Runs one of the daemons, as the command line says.
pub(super) fn run(arguments: &[String]) {
    let fault = std::env::var("FAULT").unwrap_or_default();
    let role = match arguments[0].as_str() {
        "backplane" => return std::thread::sleep(Duration::from_secs(600)),
        "master" => Role::Master,
        _ => Role::Agent,
    };
    let config = Config::load(Path::new(&arguments[2]), role).unwrap();
    let slot = config.links[0].slot;
    match (role, fault.as_str()) {
        (Role::Agent, "dies") if slot == Some(1) => {
            eprintln!("the window is on fire");
            std::process::exit(3);
        }
        (Role::Agent, _) => {
            let link = &config.links[0];
            let master = master_namespace(&config.control);
            let peer = format!("bl{}", slot.unwrap());
            ip(&["link", "add", "bl0", "type", "veth", "peer", &peer, "netns", &master]);
            set_up(link);
            if (fault.as_str(), slot) == ("lossy", Some(1)) {
                ip(&["route", "del", "10.77.0.0/16"]);
            }
        }
        (Role::Master, _) => config.links.iter().for_each(|link| {
            while !Path::new("/proc/thread-self/net/dev_snmp6").join(&link.name).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            set_up(link);
        }),
    }
    serve(role, &config, &fault);
}

/// The master's namespace, from where the control socket is: `/run/PREFIX.../board0/control.sock`.
fn master_namespace(control: &Path) -> String {
    let directory: PathBuf = control.ancestors().nth(2).unwrap().to_owned();
    format!("{}-master", directory.file_name().unwrap().to_str().unwrap())
}

fn set_up(link: &LinkConfig) {
    let name = link.name.as_str();
    ip(&["link", "set", name, "mtu", &link.mtu.unwrap().to_string(), "up"]);
    for address in &link.addresses {
        ip(&["addr", "add", &address.to_string(), "dev", name, "nodad"]);
    }
    for route in &link.routes {
        ip(&["route", "add", &route.to.to_string(), "via", &route.via.unwrap().to_string()]);
    }
}

fn serve(role: Role, config: &Config, fault: &str) {
    let state = if fault == "waiting" { "waiting" } else { "up" };
    let reason = (fault == "waiting").then_some("window has no magic");
    let link = |link: &LinkConfig| {
        serde_json::json!({
            "name": link.name, "transport": "shm:", "slot": link.slot, "state": state,
            "reason": reason, "carrier": true, "epoch": 1, "peer_epoch": 2,
            "peer_version": "0", "mac": null, "mtu": link.mtu, "features": ["VERSION_1", "MTU"],
            "queues": [], "dma": {"mode": "direct", "transfers": 0, "bytes": 0},
        })
    };
    let links: Vec<_> = config.links.iter().map(link).collect();
    let status = serde_json::json!({
        "role": role.to_string(), "pid": std::process::id(), "version": "0", "links": links,
    });
    let status: Status = serde_json::from_value(status).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // To take the signal and do nothing is what "stubborn" means.
        let _terminate = (fault == "stubborn").then(|| signal(SignalKind::terminate()).unwrap());
        let control = ControlSocket::bind(&config.control, &config.access).unwrap();
        control
            .serve(|| status.clone(), |_| None, |_| Err(String::new()), std::future::pending)
            .await;
    });
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().unwrap();
    assert!(done.success(), "ip {}", arguments.join(" "));
}
