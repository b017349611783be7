use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant as Moment;

use proptest::prelude::*;

use super::*;

#[test]
fn each_request_gets_what_it_asks_for() {
    let long = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    for (request, asked) in [
        ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Asked::Page),
        ("GET /metrics?name[]=up HTTP/1.0\r\n\r\n", Asked::Page),
        ("GET http://localhost:9477/metrics HTTP/1.1\r\n\r\n", Asked::Page),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", Asked::Header),
        ("GET / HTTP/1.1\r\n\r\n", Asked::Refused(404)),
        ("GET http://localhost HTTP/1.1\r\n\r\n", Asked::Refused(404)),
        ("GET /metrics/ HTTP/1.1\r\n\r\n", Asked::Refused(404)),
        ("GET /../metrics HTTP/1.1\r\n\r\n", Asked::Refused(404)),
        ("POST /metrics HTTP/1.1\r\n\r\n", Asked::Refused(405)),
        ("get /metrics HTTP/1.1\r\n\r\n", Asked::Refused(405)),
        ("GET /metrics HTTP/2.0\r\n\r\n", Asked::Refused(505)),
        ("{\"request\":\"status\"}\n", Asked::Refused(400)),
        ("\x16\x03\x01\x02", Asked::Refused(400)),
        (&long, Asked::Refused(431)),
    ] {
        assert_eq!(read(request.as_bytes()), Some(asked), "{request:?}");
    }
    assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost: a\r\n"), None, "it is not whole");
}

proptest! {
    #[test]
    fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(&octets);
    }

    #[test]
    fn a_request_with_any_field_is_whole_at_its_end_and_not_before(
        name in "[a-zA-Z-]{1,40}",
        value in "[ -~]{0,200}",
        cut in 0_usize..1000,
    ) {
        let text = format!("GET /metrics HTTP/1.1\r\n{name}: {value}\r\n\r\n");
        prop_assert_eq!(read(text.as_bytes()), Some(Asked::Page));
        let cut = cut % text.len();
        prop_assert_eq!(read(&text.as_bytes()[..cut]), None);
    }
}

/// A server on the loopback, for as long as this lives.
struct Server(SocketAddr, Option<oneshot::Sender<()>>, Option<thread::JoinHandle<()>>);

impl Server {
    fn start() -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = Listener::over(socket.into(), &Place::Tcp(address)).unwrap();
                tokio::select! {
                    () = serve(&listener, || "x 1\n".repeat(50_000)) => {}
                    _ = stopped => {}
                }
            });
        });
        Self(address, Some(stop), Some(thread))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(2 * CLIENT_TIMEOUT)).unwrap();
        stream
    }

    /// The answer to these octets.
    fn ask(&self, octets: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(octets).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.1.take());
        self.2.take().unwrap().join().unwrap();
    }
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_page_comes_whole_and_its_header_says_how_long_it_is() {
    let server = Server::start();
    for (request, body) in [(GET, 200_000), (b"HEAD /metrics HTTP/1.0\r\n\r\n", 0)] {
        let answer = server.ask(request);
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"));
        assert!(head.contains("\r\nContent-Length: 200000\r\nConnection: close"), "{head}");
        assert_eq!(page.len(), body);
    }
    let refused = server.ask(b"PUT /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\nsome more");
    assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{refused}");
    assert!(refused.contains("\r\nAllow: GET, HEAD\r\n"), "{refused}");
}

#[test]
fn a_request_without_an_end_is_refused_and_hears_of_it() {
    let server = Server::start();
    let mut request = b"GET /metrics HTTP/1.1\r\nfield: ".to_vec();
    request.resize(REQUEST_MAX + 20_000, b'a');
    let refused = server.ask(&request);
    assert!(refused.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{refused}");
}

#[test]
fn those_who_ask_slowly_or_do_not_read_hold_up_nobody_for_long() {
    let server = Server::start();
    let mut slow: Vec<_> = (0..2 * CLIENTS_MAX).map(|_| server.connect()).collect();
    for (i, stream) in slow.iter_mut().enumerate() {
        // One half asks octet by octet, the other does not read.
        let _ = stream.write_all(if i % 2 == 0 { &GET[..9] } else { GET });
    }
    let start = Moment::now();
    assert!(server.ask(GET).ends_with("x 1\n"));
    assert!(start.elapsed() < CLIENT_TIMEOUT / 2, "{:?}", start.elapsed());
}

#[test]
fn one_who_says_nothing_is_cut_off() {
    let server = Server::start();
    let mut stream = server.connect();
    let start = Moment::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(start.elapsed() >= CLIENT_TIMEOUT - GRACE, "{:?}", start.elapsed());
}

#[test]
fn a_hundred_at_once_are_all_answered() {
    let server = Server::start();
    thread::scope(|scope| {
        let asks: Vec<_> = (0..100).map(|_| scope.spawn(|| server.ask(GET).len())).collect();
        for ask in asks {
            assert!(ask.join().unwrap() > 200_000);
        }
    });
}
