//! Closes what a peer gave, on a thread that may be kept waiting in it.
//!
//! The last one who closes a descriptor may have to wait: a TCP socket with SO_LINGER, for hours, as long
//! as its own peer reads nothing. A peer may send such a descriptor where none or another one is due, and
//! close its own before; and what it sent and nobody read is closed with the connection, or with the socket
//! that would have accepted this. So none of these is closed by a thread that others need.
//!
//! There are two threads as long as there is something to close: one closes, and the other one interrupts
//! it when that takes long. To take the lingering from a socket before would not do, as whoever gave it can
//! put it back, and sockets lie in sockets. What no signal ends, such as a file whose file system hangs,
//! holds up what is closed behind it; so whoever takes what peers send looks how much is
//! [left](Closer::left).

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::interrupt::interrupt;

/// How long a closing may take before it is interrupted.
const PATIENCE: Duration = Duration::from_millis(20);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(5);
/// Most of what one peer gave that may wait to be closed while it is heard further.
pub const MOST_LEFT: usize = 64;
/// How many looks are waited for a peer's descriptors when it has left, so that it sees its connection
/// closed.
const LAST_LOOKS: usize = 40;

/// Drops things on a thread, one after the other. Clones are the same one; when the last is gone, what is
/// left is still dropped, and nobody waits for that.
#[derive(Clone, Debug, Default)]
pub struct Closer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<Work>);

#[derive(Default)]
struct Work {
    waiting: VecDeque<Box<dyn Any + Send>>,
    /// Since when one is being dropped.
    since: Option<Instant>,
    /// Threads are there, or about to end with nothing waiting.
    attended: bool,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all dropped by another thread, which is interrupted when it is held.
    fn attend(self: &Arc<Self>) {
        loop {
            let mut work = self.lock();
            work.since = None;
            if work.waiting.is_empty() {
                work.attended = false;
                return;
            }
            drop(work);
            let shared = self.clone();
            match Builder::new().name("bl-closer".to_owned()).spawn(move || shared.drop_all()) {
                Ok(thread) => self.hurry(&thread),
                Err(_) => {
                    // The next one who looks tries again.
                    self.lock().attended = false;
                    return;
                }
            }
        }
    }

    fn hurry(&self, thread: &JoinHandle<()>) {
        while !thread.is_finished() {
            std::thread::sleep(LOOK);
            let since = self.lock().since;
            if since.is_some_and(|since| since.elapsed() > PATIENCE) {
                interrupt(thread);
            }
        }
    }

    fn drop_all(&self) {
        loop {
            let mut work = self.lock();
            work.since = None;
            let Some(what) = work.waiting.pop_front() else { return };
            work.since = Some(Instant::now());
            drop(work);
            drop(what);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // No thread could be had to the last: it stays open rather than holding this one.
        let work = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(std::mem::take(&mut work.waiting));
    }
}

impl Closer {
    /// Has it dropped soon.
    pub fn close(&self, what: impl Send + 'static) {
        let mut work = self.0.lock();
        work.waiting.push_back(Box::new(what));
        self.start(work);
    }

    /// Takes what is to be dropped so whatever becomes of it.
    pub fn keep<T: Send + 'static>(&self, what: T) -> Kept<T> {
        Kept { what: Some(what), closer: self.clone() }
    }

    /// How many have not been dropped yet.
    pub fn left(&self) -> usize {
        let work = self.0.lock();
        let left = work.waiting.len() + usize::from(work.since.is_some());
        self.start(work);
        left
    }

    /// Waits for what is left of a peer that has left: all of it for a while, and so much that another one
    /// can be heard for as long as it takes.
    pub async fn settle(&self) {
        let mut looks = 0;
        while self.left() > if looks < LAST_LOOKS { 0 } else { MOST_LEFT } {
            tokio::time::sleep(LOOK).await;
            looks += 1;
        }
    }

    /// Where no thread can be had, everything waits, and that is tried again with the next thing or look.
    fn start(&self, mut work: MutexGuard<'_, Work>) {
        if work.attended || work.waiting.is_empty() {
            return;
        }
        let shared = self.0.clone();
        let started = Builder::new().name("bl-hurry".to_owned()).spawn(move || shared.attend());
        work.attended = started.is_ok();
    }
}

/// What a closer drops when its owner does.
#[derive(Debug)]
pub struct Kept<T: Send + 'static> {
    /// `None` while it is dropped.
    what: Option<T>,
    closer: Closer,
}

impl<T: Send + 'static> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.what.as_ref().expect("it is not being dropped")
    }
}

impl<T: Send + 'static> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.what.as_mut().expect("it is not being dropped")
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some(what) = self.what.take() {
            self.closer.close(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    /// Whose drop waits in a system call until that is interrupted.
    struct Slow;

    impl Drop for Slow {
        fn drop(&mut self) {
            let fd = eventfd(0, EventfdFlags::empty()).unwrap();
            assert_eq!(rustix::io::read(&fd, &mut [0; 8]), Err(rustix::io::Errno::INTR));
        }
    }

    fn wait(claim: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(10), "not in time: {claim}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (end, peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (end, peer)
    }

    #[test]
    fn what_waits_in_its_drop_holds_up_nobody_and_is_interrupted() {
        let closer = Closer::default();
        let (end, mut peer) = pair();
        let start = Instant::now();
        closer.close(Slow);
        closer.close(Slow);
        drop(closer.keep(end));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(closer.left() > 0);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        wait("nothing is left", || closer.left() == 0);
    }

    #[test]
    fn what_is_left_by_the_last_clone_is_dropped_too() {
        let closer = Closer::default();
        let (end, mut peer) = pair();
        closer.close((Slow, Slow));
        closer.close(end);
        drop(closer);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn threads_end_with_the_work_and_come_back_with_the_next() {
        let closer = Closer::default();
        for _ in 0..3 {
            let (end, mut peer) = pair();
            closer.close(end);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            wait("the threads have ended", || Arc::strong_count(&closer.0) == 1);
        }
    }

    #[test]
    fn what_panics_in_its_drop_takes_nothing_else_with_it() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("as the test has it");
            }
        }
        let closer = Closer::default();
        let (end, mut peer) = pair();
        closer.close(Bad);
        closer.close(end);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        wait("nothing is left", || closer.left() == 0);
    }

    #[test]
    fn where_no_thread_could_be_had_what_waits_is_dropped_after_the_next_look() {
        let closer = Closer::default();
        let (end, mut peer) = pair();
        // As a start that failed leaves it.
        closer.0.lock().waiting.push_back(Box::new(end));
        peer.set_nonblocking(true).unwrap();
        assert!(peer.read(&mut [0]).is_err(), "it is open");
        assert_eq!(closer.left(), 1);
        peer.set_nonblocking(false).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
}
