//! Closes what a peer gave, on a thread that may be kept waiting in it.
//!
//! The last one who closes a descriptor may have to wait: a TCP socket with SO_LINGER, for hours, as long
//! as its own peer reads nothing. A front-end may send such a descriptor where none or another one is due,
//! and close its own before; and what it sent and nobody read is closed with the connection. So neither is
//! closed by a thread that others need. Whoever has more to close interrupts what takes long.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::interrupt::interrupt;

/// How long a closing may take before it is interrupted.
const PATIENCE: Duration = Duration::from_millis(20);

/// Drops things on a thread of its own, one after the other. Clones are the same one; after the last, the
/// thread ends once all is dropped, and nobody waits for that.
#[derive(Clone, Debug, Default)]
pub struct Closer(Arc<Owner>);

#[derive(Debug, Default)]
struct Owner {
    shared: Arc<Shared>,
    /// Started when there is something to close.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Box<dyn Any + Send>>,
    /// Since when one is being closed.
    since: Option<Instant>,
    end: bool,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        loop {
            match work.waiting.pop_front() {
                None if work.end => return,
                None => work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
                Some(what) => {
                    work.since = Some(Instant::now());
                    drop(work);
                    drop(what);
                    work = self.lock();
                    work.since = None;
                }
            }
        }
    }
}

impl Closer {
    /// Has it dropped soon.
    pub fn close(&self, what: impl Send + 'static) {
        let Owner { shared, thread } = &*self.0;
        let mut thread = thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let of_thread = shared.clone();
            let named = std::thread::Builder::new().name("bl-closer".to_owned());
            // Where no thread can be had, it is dropped by this one, and that is tried again.
            let Ok(started) = named.spawn(move || of_thread.run()) else { return };
            *thread = Some(started);
        }
        drop(thread);
        shared.lock().waiting.push_back(Box::new(what));
        shared.changed.notify_one();
        self.hurry();
    }

    /// How many have not been dropped yet. They are hurried.
    pub fn left(&self) -> usize {
        self.hurry();
        let work = self.0.shared.lock();
        work.waiting.len() + usize::from(work.since.is_some())
    }

    fn hurry(&self) {
        let since = self.0.shared.lock().since;
        if since.is_none_or(|since| since.elapsed() <= PATIENCE) {
            return;
        }
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().into_iter().for_each(interrupt);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

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

    #[test]
    fn what_waits_in_its_drop_holds_up_nobody_and_the_next_interrupts_it() {
        let closer = Closer::default();
        let (end, peer) = UnixStream::pair().unwrap();
        let start = Instant::now();
        closer.close(Slow);
        closer.close(end);
        assert!(start.elapsed() < Duration::from_secs(5));
        let (done, all) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            done.send(std::io::Read::read(&mut &peer, &mut [0]).unwrap()).unwrap();
        });
        while closer.left() > 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "it has not been interrupted");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(all.recv_timeout(Duration::from_secs(10)), Ok(0));
        reader.join().unwrap();
    }
}
