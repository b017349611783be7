use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

use super::protocol::Reply;
use super::*;
use crate::os::broker::{Message, pair, receive, send};

/// A directory with a config of one link, and a broker on a thread.
struct Served {
    dir: PathBuf,
    socket: Option<OwnedFd>,
    broker: Option<JoinHandle<io::Result<()>>>,
}

impl Served {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("boardlane-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ours, theirs) = pair().unwrap();
        let file = dir.join("master.toml");
        let broker = std::thread::spawn(move || Server::new(Role::Master, file).serve(&theirs));
        let served = Self { dir, socket: Some(ours), broker: Some(broker) };
        served.configure("bl0");
        served
    }

    fn slot(&self) -> PathBuf {
        self.dir.join("slot0.sock")
    }

    fn configure(&self, link: &str) {
        let slot = self.slot().display().to_string();
        let text = format!("[[link]]\nname = \"{link}\"\ntransport = \"shm:{slot}\"\n");
        std::fs::write(self.dir.join("master.toml"), text).unwrap();
    }

    fn ask(&self, what: What, link: &str) -> (Result<u32, Refused>, Vec<OwnedFd>) {
        let request = Request { number: 77, what, link: link.to_owned() };
        let (reply, fds) = self.say(&request.octets(), &[]);
        assert_eq!(reply.number, 77);
        (reply.outcome, fds)
    }

    fn say(&self, octets: &[u8], fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        let socket = self.socket.as_ref().unwrap();
        send(socket, octets, fds).unwrap();
        let Message { octets, fds } = receive(socket).unwrap();
        (Reply::parse(&octets).expect("a reply"), fds)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.socket = None;
        // Its socket is closed, and that is an orderly end.
        let ended = self.broker.take().unwrap().join();
        let _ = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

#[test]
fn a_config_that_the_daemon_could_write_is_read_once() {
    for (name, control, sealed) in [("beside", "c.sock", true), ("apart", "run/c.sock", false)] {
        let served = Served::new(name);
        std::fs::create_dir_all(served.dir.join("run")).unwrap();
        let control = served.dir.join(control).display().to_string();
        let file = served.dir.join("master.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("control = \"{control}\"\n{text}")).unwrap();
        assert!(served.ask(What::Config, "").0.is_ok() && served.ask(What::Adopt, "").0.is_ok());
        assert_eq!(served.ask(What::Config, "").0.is_err(), sealed, "{name}");
        assert_eq!(served.ask(What::Adopt, "").0.is_err(), sealed, "{name}");
    }
}

#[test]
fn a_link_that_the_config_does_not_have_is_refused() {
    let served = Served::new("refused");
    let listener = UnixListener::bind(served.slot()).unwrap();
    // Before a config is adopted there is no link at all.
    for adopted in [false, true] {
        if adopted {
            assert!(served.ask(What::Config, "").0.is_ok());
            assert!(served.ask(What::Adopt, "").0.is_ok());
        }
        for what in [
            What::Netdev,
            What::Queue,
            What::Slot,
            What::Announcer,
            What::VhostUser,
            What::VhostNet,
            What::Function,
        ] {
            for link in ["bl1", "/etc/passwd", "../bl0", "slot0.sock"] {
                let (outcome, fds) = served.ask(what, link);
                assert!(outcome.is_err() && fds.is_empty(), "{what:?} {link}");
            }
        }
        let (outcome, fds) = served.ask(What::Slot, "bl0");
        assert_eq!((outcome.is_ok(), fds.len()), (adopted, usize::from(adopted)));
    }
    drop(listener);
}

#[cfg(feature = "pci")]
#[test]
fn a_function_is_taken_as_the_config_says_and_given_back_whatever_it_says() {
    let served = Served::new("function");
    let adopt = || {
        served.ask(What::Config, "").0.unwrap();
        served.ask(What::Adopt, "").0.unwrap();
    };
    adopt();
    let said = |what, link| {
        let (outcome, fds) = served.ask(what, link);
        assert!(fds.is_empty());
        outcome.map_err(|refused| refused.text)
    };
    let slot = format!("transport shm:{} has no PCI function", served.slot().display());
    assert_eq!(said(What::Function, "bl0"), Err(slot));
    assert_eq!(said(What::Function, "bl1"), Err("the config has no link \"bl1\"".to_owned()));
    // Nobody has so many buses.
    let text = "[[link]]\nname = \"bl0\"\ntransport = \"pci:fffffffe:fe:1e.7\"\n";
    std::fs::write(served.dir.join("master.toml"), text).unwrap();
    adopt();
    let absent = "no such PCI function: /sys/bus/pci/devices/fffffffe:fe:1e.7 does not exist; \
                  plug it in, or correct `transport` (see `lspci -D`)";
    assert_eq!(said(What::Function, "bl0"), Err(absent.to_owned()));
    for link in ["bl0", "bl1"] {
        assert_eq!(said(What::Release, link), Ok(0), "{link} has none, and may have had one");
    }
}

#[test]
fn a_config_that_was_read_counts_once_it_is_adopted() {
    let served = Served::new("adopted");
    let _listener = UnixListener::bind(served.slot()).unwrap();
    let good = |link| served.ask(What::Slot, link).0.is_ok();
    assert!(served.ask(What::Adopt, "").0.is_err(), "there is none yet");
    served.ask(What::Config, "").0.unwrap();
    served.ask(What::Adopt, "").0.unwrap();
    served.configure("bl1");
    assert!(good("bl0") && !good("bl1"));
    let (_, mut fds) = served.ask(What::Config, "");
    let mut text = String::new();
    File::from(fds.pop().unwrap()).read_to_string(&mut text).unwrap();
    assert!(text.contains("\"bl1\""), "{text}");
    assert!(good("bl0") && !good("bl1"));
    served.ask(What::Adopt, "").0.unwrap();
    assert!(!good("bl0") && good("bl1"));
    // One that is wrong can be looked at, and not adopted.
    std::fs::write(served.dir.join("master.toml"), "[[link]]\nname = 7\n").unwrap();
    assert!(served.ask(What::Config, "").0.is_ok());
    assert!(served.ask(What::Adopt, "").0.is_err());
    assert!(good("bl1"));
    std::fs::remove_file(served.dir.join("master.toml")).unwrap();
    let error = served.ask(What::Config, "").0.unwrap_err();
    assert!(error.text.contains("No such file"), "{error}");
}

#[test]
fn a_queue_is_had_only_of_the_links_own_tap() {
    let served = Served::new("queue");
    served.ask(What::Config, "").0.unwrap();
    served.ask(What::Adopt, "").0.unwrap();
    let request = Request { number: 1, what: What::Queue, link: "bl0".to_owned() };
    let null = File::open("/dev/null").unwrap();
    for fds in [&[][..], &[null.as_fd()], &[null.as_fd(); 3]] {
        let (reply, got) = served.say(&request.octets(), fds);
        assert!(reply.outcome.is_err() && got.is_empty(), "{} descriptors", fds.len());
    }
    // Nor do descriptors go with anything else.
    let request = Request { number: 1, what: What::Config, link: String::new() };
    assert!(served.say(&request.octets(), &[null.as_fd()]).0.outcome.is_err());
}

#[test]
fn whatever_is_said_is_answered_and_the_next_request_too() {
    let served = Served::new("octets");
    let null = File::open("/dev/null").unwrap();
    let octets = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..crate::os::broker::MESSAGE_MAX),
        // Nearly right: a number, something to ask for, and any name.
        (any::<u32>(), 0..10_u8, proptest::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(number, what, link)| [&number.to_le_bytes()[..], &[what], &link].concat()),
    ];
    let mut runner = TestRunner::new(Runs { failure_persistence: None, ..Runs::default() });
    let run = runner.run(&(octets, 0..=3_usize), |(octets, fds)| {
        let (reply, got) = served.say(&octets, &vec![null.as_fd(); fds]);
        prop_assert_eq!(reply.number, Request::number_of(&octets));
        // No link is there, so nothing but the config's text can be had.
        prop_assert!(got.len() <= 1, "{:?}", octets);
        Ok(())
    });
    run.unwrap();
    assert!(served.ask(What::Config, "").0.is_ok());
}

#[test]
fn what_is_no_message_is_answered_too() {
    let served = Served::new("too-long");
    let socket = served.socket.as_ref().unwrap();
    let long = vec![0; 70_000];
    rustix::net::send(socket, &long, rustix::net::SendFlags::empty()).unwrap();
    let reply = Reply::parse(&receive(socket).unwrap().octets).unwrap();
    assert!(reply.outcome.is_err() && reply.number == 0);
    assert!(served.ask(What::Config, "").0.is_ok());
}

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[test]
fn replies_find_who_asked_and_others_are_dropped() {
    let (ours, theirs) = pair().unwrap();
    let reply = |number, outcome| Reply { number, outcome, note: String::new() }.octets();
    let broker = std::thread::spawn(move || {
        let null = File::open("/dev/null").unwrap();
        let number = || Request::number_of(&receive(&theirs).unwrap().octets);
        let first = number();
        send(&theirs, b"no reply", &[null.as_fd()]).unwrap();
        send(&theirs, &reply(12345, Ok(0)), &[null.as_fd()]).unwrap();
        send(&theirs, &reply(first, Ok(9)), &[null.as_fd()]).unwrap();
        // One without its descriptor, after one that nobody waits for any more.
        let second = number();
        send(&theirs, &reply(first, Ok(9)), &[null.as_fd()]).unwrap();
        send(&theirs, &reply(second, Ok(0)), &[]).unwrap();
        send(&theirs, &reply(number(), Err("no".into())), &[]).unwrap();
        theirs
    });
    in_a_runtime(async {
        let client = Client::new(ours).unwrap();
        let ask = |link: &'static str| client.ask(What::Slot, link, &[]);
        let (first, second, third) = tokio::join!(ask("a"), ask("b"), ask("c"));
        let first = first.unwrap();
        assert_eq!((first.index, first.fds.len()), (9, 1));
        assert!(second.unwrap_err().text.contains("not right"));
        assert_eq!(third.unwrap_err().text, "no");
        drop(broker.join().unwrap());
        client.lost().await;
        assert!(ask("a").await.unwrap_err().text.contains("ended"));
    });
}

#[test]
fn a_broker_that_ends_or_says_nothing_holds_nobody_up() {
    let (ours, theirs) = pair().unwrap();
    in_a_runtime(async {
        let client = Client::new(ours).unwrap();
        let start = Instant::now();
        let error = client.ask(What::Slot, "bl0", &[]).await.unwrap_err();
        assert!(error.text.contains("not answered"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // Until it answers, no other request waits as long.
        let start = Instant::now();
        let error = client.ask(What::Slot, "bl0", &[]).await.unwrap_err();
        assert!(error.text.contains("not answered"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        drop(theirs);
        client.lost().await;
        let error = client.ask(What::Slot, "bl0", &[]).await.unwrap_err();
        assert!(error.text.contains("ended"), "{error}");
    });
    let (ours, theirs) = pair().unwrap();
    in_a_runtime(async {
        let client = Client::new(ours).unwrap();
        let waiting = client.ask(What::Slot, "bl0", &[]);
        let end = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(theirs);
        };
        let (ended, ()) = tokio::join!(waiting, end);
        assert!(ended.unwrap_err().text.contains("ended"));
    });
}

#[test]
fn a_broker_that_does_not_say_whether_it_has_adopted_a_config_holds_nobody_up() {
    let (ours, theirs) = pair().unwrap();
    in_a_runtime(async {
        let client = Client::new(ours).unwrap();
        let adopted = client.ask(What::Adopt, "", &[]);
        let answer = tokio::time::timeout(Duration::from_secs(10), adopted).await;
        let error = answer.expect("an end of the waiting").unwrap_err();
        assert!(error.text.contains("not answered"), "{error}");
        // It comes late: then there is an answer to the next one again.
        let number = Request::number_of(&receive(&theirs).unwrap().octets);
        let reply = |number, outcome| {
            send(&theirs, &Reply { number, outcome, note: String::new() }.octets(), &[]).unwrap();
        };
        reply(number, Ok(0));
        let replies = async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            reply(number + 1, Err("no".into()));
        };
        let next = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.ask(What::Adopt, "", &[]).await
        };
        let (next, ()) = tokio::join!(next, replies);
        assert_eq!(next.unwrap_err().text, "no");
    });
}

#[test]
fn a_config_is_the_same_with_a_process_and_without() {
    let served = Served::new("within");
    let file = served.dir.join("master.toml");
    let mut other = std::fs::File::options().append(true).open(&file).unwrap();
    other.write_all(b"mtu = 9000\n").unwrap();
    let confine = Confine::without(&["broker".to_owned()]);
    in_a_runtime(async {
        let broker = Started::new(Role::Master, &file, confine).unwrap().attend().unwrap();
        let config = broker.config().await.unwrap();
        assert_eq!(config, Config::load(&file, Role::Master).unwrap());
        broker.adopt().await.unwrap();
        let error = broker.slot("bl0").await.unwrap_err();
        assert!(error.absent);
        assert!(error.text.contains("slot0.sock"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let told = broker.config().await.unwrap_err().to_string();
        let usual = Config::load(&file, Role::Master).unwrap_err().to_string();
        assert_eq!(told, usual);
    });
}

/// A broker that has adopted a config of these links, each with its transport and further lines.
fn adopted(name: &str, links: &[(&str, &str)]) -> Served {
    let served = Served::new(name);
    configure(&served, links);
    served
}

fn configure(served: &Served, links: &[(&str, &str)]) {
    let dir = served.dir.display();
    let link = |(name, how): &(&str, &str)| {
        let how = how.replace("DIR", &dir.to_string());
        format!("[[link]]\nname = \"{name}\"\ntransport = \"vhost-user:{how}\n")
    };
    let text: String = links.iter().map(link).collect();
    std::fs::write(served.dir.join("master.toml"), text).unwrap();
    served.ask(What::Config, "").0.unwrap();
    served.ask(What::Adopt, "").0.unwrap();
}

impl Served {
    fn vhost_user(&self, link: &str) -> Result<OwnedFd, Refused> {
        let (outcome, mut fds) = self.ask(What::VhostUser, link);
        outcome.map(|_| fds.pop().expect("its descriptor"))
    }
}

#[test]
fn a_vhost_user_link_listens_or_connects_as_the_config_has_it() {
    let served = adopted("vhost-user", &[("a", "DIR/a?server\""), ("b", "DIR/b\"")]);
    let absent = served.vhost_user("b").unwrap_err();
    assert!(absent.absent && absent.text.contains("does not exist"), "{absent}");
    let listener = UnixListener::bind(served.dir.join("b")).unwrap();
    let connected = UnixStream::from(served.vhost_user("b").unwrap());
    let listens = UnixListener::from(served.vhost_user("a").unwrap());
    listens.set_nonblocking(false).unwrap();
    let other = UnixStream::connect(served.dir.join("a")).unwrap();
    for (accepted, peer) in [(listener.accept(), connected), (listens.accept(), other)] {
        accepted.unwrap().0.write_all(b"x").unwrap();
        peer.set_nonblocking(false).unwrap();
        assert_eq!((&peer).read(&mut [0; 2]).unwrap(), 1);
    }
    let mode = std::fs::metadata(served.dir.join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Neither has a slot.
    assert!(served.ask(What::Slot, "a").0.is_err() && served.ask(What::Slot, "b").0.is_err());
}

#[test]
fn who_connects_while_a_link_begins_anew_still_waits() {
    let served = adopted("anew", &[("a", "DIR/a?server\"")]);
    drop(served.vhost_user("a").unwrap());
    let mut early = UnixStream::connect(served.dir.join("a")).unwrap();
    early.write_all(b"early").unwrap();
    // Nor does another config that says the same of it, or the mode of another, change this.
    configure(&served, &[("b", "DIR/b?server\"\nsocket_mode = \"0660\""), ("a", "DIR/a?server\"")]);
    let listener = UnixListener::from(served.vhost_user("a").unwrap());
    listener.set_nonblocking(true).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let mut octets = [0; 5];
    (&accepted).read_exact(&mut octets).unwrap();
    assert_eq!(&octets, b"early");
}

#[test]
fn the_socket_of_a_live_process_is_not_taken_and_a_dead_ones_is_replaced() {
    let served = adopted("taken", &[("a", "DIR/a?server\"")]);
    let other = UnixListener::bind(served.dir.join("a")).unwrap();
    let error = served.vhost_user("a").unwrap_err();
    assert!(error.text.ends_with("a: another process listens there"), "{error}");
    assert!(!error.absent);
    drop(other);
    let listener = served.vhost_user("a").unwrap();
    // One that somebody has removed is made again.
    std::fs::remove_file(served.dir.join("a")).unwrap();
    drop(listener);
    let _listener = served.vhost_user("a").unwrap();
    assert!(UnixStream::connect(served.dir.join("a")).is_ok());
}

#[test]
fn sockets_go_with_their_links_and_with_the_daemon() {
    let files = |served: &Served| {
        let names = std::fs::read_dir(&served.dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".toml")).collect();
        names.sort();
        names
    };
    let served = adopted("gone", &[("a", "DIR/a?server\""), ("b", "DIR/b?server\"")]);
    let _listeners = ["a", "b"].map(|link| served.vhost_user(link).unwrap());
    assert_eq!(files(&served), ["a", "a.lock", "b", "b.lock"]);
    configure(&served, &[("b", "DIR/c?server\"")]);
    assert_eq!(files(&served), [""; 0]);
    let _listener = served.vhost_user("b").unwrap();
    assert_eq!(files(&served), ["c", "c.lock"]);
    assert!(served.ask(What::Close, "").0.is_ok());
    assert_eq!(files(&served), [""; 0]);
}

/// A taken-over daemon may ask for any name: it gets nothing of a function that the config does not cover,
/// or that is not there, or of no known kind.
#[cfg(feature = "pci")]
#[test]
fn a_pattern_covers_its_functions_and_no_others() {
    use crate::daemon::functions::tests::Bus;

    let bus = Bus::new("covered");
    for (address, known) in
        [("0000:03:00.0", true), ("0000:03:01.0", true), ("0000:03:02.0", false)]
    {
        bus.plug(address, known);
    }
    bus.plug("0000:04:00.0", true);
    let file = bus.dir.join("master.toml");
    let entry =
        |name, transport| format!("[[link]]\nname = \"{name}\"\ntransport = \"pci:{transport}\"\n");
    let mut server = Server::new(Role::Master, file.clone());
    server.functions.tree = bus.tree();
    let mut ask = |what, link: &str| {
        let request = Request { number: 1, what, link: link.to_owned() };
        server.handle(&request, Vec::new())
    };
    let adopt = |ask: &mut dyn FnMut(What, &str) -> Result<Granted, Refused>, text: String| {
        std::fs::write(&file, text).unwrap();
        ask(What::Config, "").unwrap();
        ask(What::Adopt, "").unwrap();
    };
    let list = |ask: &mut dyn FnMut(What, &str) -> Result<Granted, Refused>| {
        let granted = ask(What::Functions, "").unwrap();
        let mut text = String::new();
        File::from(one(granted).unwrap()).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(list(&mut ask), "", "no config yet");
    adopt(&mut ask, "[[link]]\nname = \"a\"\ntransport = \"shm:/a\"\n".to_owned());
    assert!(list(&mut ask).is_empty() && ask(What::Uevents, "").is_err(), "nothing of PCI");
    adopt(&mut ask, entry("own", "0000:03:01.0") + &entry("bl*", "0000:03:*"));
    assert_eq!(list(&mut ask), "0000:03:00.0\n0000:03:01.0\n0000:04:00.0\n");
    // What is wrong with the function is told only of one that is covered.
    let why = |ask: &mut dyn FnMut(What, &str) -> Result<Granted, Refused>, link: &str| {
        ask(What::Function, link).unwrap_err().text
    };
    assert!(why(&mut ask, "own").contains("BAR"), "{}", why(&mut ask, "own"));
    assert!(why(&mut ask, "blp3s0").contains("BAR"), "{}", why(&mut ask, "blp3s0"));
    for link in ["blp3s2", "blp3s3"] {
        assert!(why(&mut ask, link).starts_with("there is no function for"), "{link}");
    }
    for link in ["blp3s1", "blp4s0", "bl*", "bl", "p3s0", "blp3s0f0", "0000:03:00.0", "blP0p3s0"] {
        for what in [What::Function, What::Netdev, What::Slot, What::Announcer] {
            let error = ask(what, link).unwrap_err();
            assert!(error.text.starts_with("the config has no link"), "{what:?} {link}: {error}");
        }
    }
    // As it goes, so does its link, until it comes again.
    bus.unplug("0000:03:00.0");
    list(&mut ask);
    assert!(why(&mut ask, "blp3s0").starts_with("there is no function for"));
    bus.plug("0000:03:00.0", true);
    assert!(why(&mut ask, "blp3s0").contains("BAR"));
    // Another config covers it no more.
    adopt(&mut ask, entry("bl*", "0000:04:*"));
    assert!(why(&mut ask, "blp3s0").starts_with("the config has no link"));
    assert!(why(&mut ask, "own").starts_with("the config has no link"));
    assert!(why(&mut ask, "blp4s0").contains("BAR"));
}
