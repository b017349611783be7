//! Metrics: what `status` tells, in the words of Prometheus, for whoever asks by HTTP.
//!
//! The socket is opened by the broker, as a confined daemon opens none. A place that is taken is no
//! reason to be without links: the daemon says so once and in `status`, and tries again every few seconds.
//! A page is made from the same values as `status`, so the two agree, but for the moment that a page is kept.

mod http;
mod text;

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::broker::Broker;
use super::config::Metrics as Place;
use super::status::{MetricsStatus, Status};
use crate::os::access::Access;
use crate::os::socket_file::SocketFile;

/// Between tries to listen.
const RETRY: Duration = Duration::from_secs(5);

/// Who tells a daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    broker: Broker,
    place: watch::Sender<Option<Place>>,
    /// Why nobody listens there.
    error: RefCell<Option<String>>,
}

impl Metrics {
    /// Nowhere yet.
    pub fn new(broker: Broker) -> Self {
        Self { broker, place: watch::Sender::default(), error: RefCell::default() }
    }

    /// Tells them there from now on, if anywhere; the broker goes by the same config.
    pub fn move_to(&self, place: Option<&Place>) {
        self.place.send_if_modified(|old| {
            let moves = old.as_ref() != place;
            if moves {
                *old = place.cloned();
                self.error.take();
            }
            moves
        });
    }

    /// Where they are to be had, and why they are not.
    pub fn status(&self) -> Option<MetricsStatus> {
        let address = self.place.borrow().as_ref()?.to_string();
        Some(MetricsStatus { address, error: self.error.borrow().clone() })
    }

    /// Answers until the future is dropped, with what `status` says then.
    pub async fn serve(&self, status: impl Fn() -> Status) {
        let mut place = self.place.subscribe();
        loop {
            let now = place.borrow_and_update().clone();
            let served = async {
                match &now {
                    Some(place) => self.serve_at(place, &status).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is in `self`.
                _ = place.changed() => {}
                () = served => {}
            }
        }
    }

    async fn serve_at(&self, place: &Place, status: impl Fn() -> Status) {
        loop {
            let socket = self.broker.metrics().await.map_err(|e| e.text);
            match socket.and_then(|fd| http::Listener::over(fd, place).map_err(|e| e.to_string())) {
                Ok(listener) => {
                    tracing::info!("metrics at {place}");
                    self.error.take();
                    let page = Page::default();
                    http::serve(&listener, || page.get(|| text::of(&status()))).await;
                }
                Err(why) => {
                    let told = self.error.replace(Some(why.clone()));
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(
                            "metrics at {place}: {why}; it is tried every {} s",
                            RETRY.as_secs()
                        );
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The page as it was made last. Links share this thread with whoever asks, and anybody may ask: so who asks
/// within nine times what it took to make gets the same, and pages take a tenth of the thread at most.
#[derive(Debug, Default)]
struct Page(RefCell<Option<(Instant, String)>>);

impl Page {
    fn get(&self, make: impl FnOnce() -> String) -> String {
        let mut last = self.0.borrow_mut();
        let begun = Instant::now();
        if let Some((_, page)) = last.as_ref().filter(|(until, _)| begun < *until) {
            return page.clone();
        }
        let page = make();
        *last = Some((Instant::now() + 9 * begun.elapsed(), page.clone()));
        page
    }
}

/// Listens at a place, for those to whom `access` lets where it is a file, which is there as long as the first
/// of the two.
///
/// # Errors
/// One line for people.
pub fn listen(place: &Place, access: &Access) -> Result<(Option<SocketFile>, OwnedFd), String> {
    match place {
        Place::Tcp(address) => match TcpListener::bind(address) {
            Ok(listener) => Ok((None, listener.into())),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                Err("another program listens there: stop it, or set another `metrics` in the \
                     config"
                    .to_owned())
            }
            Err(e) => Err(e.to_string()),
        },
        Place::Unix(path) => match SocketFile::bind(path, access) {
            Ok((file, listener)) => Ok((Some(file), listener.into())),
            Err(e) => Err(e.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_took_long_is_given_to_all_who_ask_meanwhile() {
        let (page, made) = (Page::default(), RefCell::new(0));
        let ask = || {
            page.get(|| {
                std::thread::sleep(Duration::from_millis(20));
                *made.borrow_mut() += 1;
                made.borrow().to_string()
            })
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(600) {
            ask();
        }
        assert!((1..=4).contains(&*made.borrow()), "{made:?} in 0.6 s");
    }
}
