use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;

use super::client::{ClientError, ask, ask_probe, ask_reload, ask_status, send, understand};
use super::report::{Reporter, StatusOptions, StatusReport};
use super::*;
use crate::daemon::Role;
use crate::daemon::capture::Captures;
use crate::daemon::config::Config;

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn status() -> Status {
    Status { role: "agent".into(), pid: 7, version: "0.1.0".into(), ..Status::default() }
}

/// There is one link, which is attached to nothing.
fn probe(link: &str) -> Option<LinkProbe> {
    (link == "bl0").then(LinkProbe::default)
}

/// A capture of which nothing comes.
fn capture(wanted: &Wanted) -> Capture {
    let session = Arc::<Captures>::default().begin(wanted, 2)?;
    let begun = session.begun("agent".to_owned());
    Ok((session, begun))
}

/// A reload of a config that is wrong.
fn reload() -> tokio::task::JoinHandle<Result<Report, ReloadError>> {
    let wrong = || Config::parse("f.toml", "a = [", Role::Agent).map_err(ReloadError::Config);
    tokio::spawn(async move { wrong().map(|_| Report::default()) })
}

/// A server whose clients have `limit`, for as long as the result lives.
struct Server(Option<tokio::sync::oneshot::Sender<()>>, Option<std::thread::JoinHandle<()>>);

impl Server {
    fn start(path: &Path, limit: Duration) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = path.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let socket = ControlSocket::bind(&path, &Access::default()).unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = socket.serve_within(limit, status, probe, capture, reload) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self(Some(stop), Some(thread))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.take());
        self.1.take().unwrap().join().unwrap();
    }
}

fn bind(path: &Path) -> Result<ControlSocket, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    ControlSocket::bind(path, &Access::default())
}

/// All that the server says to `octets` before it hangs up.
fn say(path: &Path, octets: &[u8]) -> String {
    let mut stream = StdStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may hang up before it has taken all.
    let _ = stream.write_all(octets);
    let mut answer = Vec::new();
    // A server that closes with octets unread resets the connection.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_daemon_answers_and_takes_its_file_away() {
    let dir = Dir::new("answers");
    let path = dir.socket("deeper/master.sock");
    let server = Server::start(&path, CLIENT_TIMEOUT);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (text, answer) = ask_status(&path).unwrap();
    assert_eq!(answer, status());
    assert_eq!(text, json(&status()));
    drop(server);
    assert!(!path.exists());
    assert!(matches!(ask_status(&path), Err(ClientError::Missing)));
}

#[test]
fn one_connection_carries_several_requests() {
    let dir = Dir::new("several");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, CLIENT_TIMEOUT);
    let said = say(&path, b"{\"request\":\"status\"}\n{\"request\":\"status\"}\nenough\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], lines[1]);
    assert!(lines[2].starts_with(r#"{"error":"request not understood"#), "{said}");
}

#[test]
fn a_probe_is_of_a_link_that_there_is() {
    let dir = Dir::new("probe");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, CLIENT_TIMEOUT);
    assert_eq!(ask_probe(&path, "bl0").unwrap(), LinkProbe::default());
    match ask_probe(&path, "bl\"1") {
        Err(ClientError::Refused(text)) => assert_eq!(text, "there is no such link"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reload_of_a_wrong_config_is_told_with_its_place() {
    let dir = Dir::new("reload");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, CLIENT_TIMEOUT);
    match ask_reload(&path) {
        Err(ClientError::Config(text)) => assert!(text.starts_with("f.toml:1:6: "), "{text}"),
        other => panic!("{other:?}"),
    }
    // It was understood, so the connection goes on.
    let said = say(&path, b"{\"request\":\"reload\"}\n{\"request\":\"status\"}\nenough\n");
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn no_answer_writes_to_a_terminal_that_shows_why_it_is_none() {
    for answer in [
        r#"{"error":"\u001b[2J\u009b31m","config":true}"#,
        r#"{"error":"\u001b[2J\u009b31m"}"#,
        r#"{"role":"master","pid":1,"version":"1","links":[{"state":"\u001b[2J\u009b31m"}]}"#,
    ] {
        let why = understand::<Status>(answer).unwrap_err().to_string();
        assert!(!why.contains(char::is_control), "{why:?}");
    }
}

#[test]
fn garbage_gets_an_error_and_the_next_client_its_answer() {
    let dir = Dir::new("garbage");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, CLIENT_TIMEOUT);
    for garbage in ["\n", "{}\n", "[1]\n", "\0\u{1b}\n", "{\"request\":\"reboot\"}\n"] {
        let said = say(&path, garbage.as_bytes());
        assert!(said.starts_with(r#"{"error":"#), "{garbage:?}: {said}");
        assert_eq!(said.lines().count(), 1);
    }
    let unknown = ask(&path, r#"{"request":"reboot"}"#, CLIENT_TIMEOUT).unwrap();
    assert!(
        unknown.contains("unknown variant `reboot`, expected one of `status`, `probe`, "),
        "{unknown}"
    );
    let oversize = say(&path, &vec![b' '; REQUEST_MAX + 1]);
    assert_eq!(oversize, "{\"error\":\"a request has at most 4096 bytes\"}\n");
    assert!(ask_status(&path).is_ok());
}

#[test]
fn a_full_house_of_silent_clients_is_shown_out() {
    let dir = Dir::new("silent");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, Duration::from_millis(300));
    let silent: Vec<StdStream> =
        (0..CLIENTS_MAX).map(|_| StdStream::connect(&path).unwrap()).collect();
    // Behind them in the queue: answered only once they are out.
    assert!(ask(&path, r#"{"request":"status"}"#, Duration::from_secs(10)).is_ok());
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn a_capture_goes_on_until_its_client_goes_and_its_memory_comes_with_the_answer() {
    let dir = Dir::new("capture");
    let path = dir.socket("a.sock");
    let _server = Server::start(&path, Duration::from_millis(300));
    let request = r#"{"request":"capture","link":"bl0","snaplen":64,"drops":false}"#;
    let stream = send(&path, request, CLIENT_TIMEOUT).unwrap();
    let answer = broker::receive(&stream).unwrap();
    assert_eq!(answer.fds.len(), 1);
    let begun: Begun = serde_json::from_slice(&answer.octets).unwrap();
    assert_eq!((&*begun.role, begun.rings), ("agent", 2));
    // Longer than other clients have.
    stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let error = (&stream).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    for wrong in [r#"{"request":"capture"}"#, r#"{"request":"capture","link":"bl0","more":1}"#] {
        assert!(ask(&path, wrong, CLIENT_TIMEOUT).unwrap().contains("not understood"));
    }
}

#[test]
fn a_dead_daemons_file_is_replaced_and_a_live_ones_is_not() {
    let dir = Dir::new("stale");
    let path = dir.socket("a.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(ask_status(&path), Err(ClientError::Dead)));
    let _server = Server::start(&path, CLIENT_TIMEOUT);
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::Held(_)));
    assert!(error.to_string().starts_with("another daemon holds "), "{error}");
    assert!(ask_status(&path).is_ok());
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let dir = Dir::new("file");
    let path = dir.socket("a.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&path), Err(ControlError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_daemon_leaves_a_file_alone_that_is_not_its_own() {
    let dir = Dir::new("foreign");
    let path = dir.socket("a.sock");
    let server = Server::start(&path, CLIENT_TIMEOUT);
    // Moved, not removed: a removed file's inode number could be given out again.
    std::fs::rename(&path, dir.socket("moved.sock")).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

/// What `status --json` says of the daemons in a directory.
fn report_in(directory: &Path) -> StatusReport {
    Reporter::of(StatusOptions { control: None, json: true }, directory).look()
}

#[test]
fn a_silent_daemon_is_reported_and_the_others_are_shown() {
    let dir = Dir::new("report");
    let _server = Server::start(&dir.socket("agent.sock"), CLIENT_TIMEOUT);
    let _silent = StdListener::bind(dir.socket("master.sock")).unwrap();
    let slot = StdListener::bind(dir.socket("slot0.sock")).unwrap();
    let _metrics = StdListener::bind(dir.socket("agent-metrics.sock")).unwrap();
    let report = report_in(&dir.0);
    assert_eq!(report.shown, format!("[{}]\n", json(&status())));
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert!(report.failures[0].ends_with("master.sock: the daemon did not answer within 2 s"));
    // Nobody knocked at the slot.
    slot.set_nonblocking(true).unwrap();
    assert_eq!(slot.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn no_daemon_at_all_is_an_empty_array_and_a_failure() {
    let dir = Dir::new("none");
    let report = report_in(&dir.0.join("missing"));
    assert_eq!(report.shown, "[]\n");
    assert!(report.failures[0].starts_with("no daemon runs"), "{report:?}");
}
