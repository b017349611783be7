//! Waiting on descriptors, for worker threads: a thin epoll(7).
//!
//! Doorbells are eventfds that a peer also holds, so nothing about them can be trusted: the peer may
//! read them, fill them, or make them blocking. They are registered edge-triggered and never read:
//! each write is an edge, whatever the counter says, and reading could block. Since nothing is
//! consumed, what an edge announces is looked up in the ring, and looked up again before sleeping.
//!
//! With [`Trigger::Edge`] a descriptor is read until it would block, or its next edge never comes.
//! For writing that does not do on a TAP: it says that it is writable again only to who has polled it
//! since it was full or down. So either watch it by level, or, after a write that found no room,
//! [`Poll::modify`] before the wait: that polls it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// When a ready descriptor is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By each wait, while it is ready.
    Level,
    /// Once, each time something happens on it.
    Edge,
}

/// What a descriptor is watched for. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Errors only.
    None,
    /// There is something to read.
    Read,
    /// There is room to write.
    Write,
    /// Both.
    Both,
}

impl Interest {
    fn flags(self, trigger: Trigger) -> EventFlags {
        let interest = match self {
            Self::None => EventFlags::empty(),
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::Both => EventFlags::IN | EventFlags::OUT,
        };
        match trigger {
            Trigger::Level => interest,
            Trigger::Edge => interest | EventFlags::ET,
        }
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The tag that it was added with.
    pub tag: u64,
    /// There is something to read, or the end of it.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// It failed or was hung up; a TAP: its netdev was deleted.
    pub failed: bool,
}

/// Room for what one wait reports; made once, used for every wait.
pub struct Events {
    list: Vec<epoll::Event>,
}

impl Events {
    /// Room for `capacity` descriptors a wait; what is over comes with the next wait.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a wait reports one descriptor at least");
        Self { list: Vec::with_capacity(capacity) }
    }

    /// What the last wait reported; nothing if its time was up.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.list.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Ready {
                tag: data.u64(),
                readable: flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
                failed: flags.intersects(EventFlags::ERR | EventFlags::HUP),
            }
        })
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A set of descriptors to wait on. A descriptor leaves it when it is removed, or when all its
/// duplicates are closed.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `fd`. With [`Trigger::Edge`], what is ready already counts as the first edge.
    pub fn add(
        &self,
        fd: impl AsFd,
        tag: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(tag), interest.flags(trigger))?)
    }

    /// Watches a doorbell: edge-triggered, for something to read, and nobody reads it.
    pub fn add_doorbell(&self, fd: impl AsFd, tag: u64) -> io::Result<()> {
        self.add(fd, tag, Interest::Read, Trigger::Edge)
    }

    /// Watches `fd` for this from now on. It is polled at once: what is ready now is reported by the
    /// next wait, even if it has been reported before.
    pub fn modify(
        &self,
        fd: impl AsFd,
        tag: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(tag), interest.flags(trigger))?)
    }

    /// Watches `fd` no more.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Sleeps until something is ready or `timeout` is over (rounded up to a millisecond; `None`
    /// waits for ever, zero looks only). A signal ends the wait early, with nothing ready.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        // Beyond what the kernel takes in milliseconds; a wait that ends after weeks is harmless.
        const LONGEST: Duration = Duration::from_secs(2_000_000);
        let timeout = timeout.and_then(|t| Timespec::try_from(t.min(LONGEST)).ok());
        events.list.clear();
        let room = rustix::buffer::spare_capacity(&mut events.list);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Poll {
    /// As [`wait`](Self::wait), for a time that is not rounded.
    pub fn wait_briefly(&self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        let mut itself = [PollFd::new(&self.epoll, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut itself, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => self.wait(events, Some(Duration::ZERO)),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Ends another thread's wait. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Waker {
    /// A waker of the thread that waits on `poll`, reported there as `tag`. It is watched as
    /// doorbells are, so there is nothing to read or to reset.
    pub fn new(poll: &Poll, tag: u64) -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        poll.add_doorbell(&fd, tag)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Ends the wait that is under way, or the next one.
    pub fn wake(&self) -> io::Result<()> {
        // Full after 2^64 wakes: not in this universe's time.
        ring(&*self.fd).map(|_| ())
    }
}

/// Rings a doorbell: adds 1 to an eventfd. Gives whether that reached the counter.
///
/// The counter stops below 2^64 - 1, where only a peer that misbehaves can bring it: nobody reads a
/// doorbell, and ringing it that often takes centuries. Then a non-blocking eventfd refuses
/// (`Ok(false)`): the peer has made itself deaf, and is found again by its own look for lost
/// doorbells. A blocking one (the peer may clear O_NONBLOCK, which the two share) holds the calling
/// thread until somebody reads the eventfd or a signal comes (`Ok(false)` too). So only a thread
/// that serves this one peer may ring it; who must end such a thread reads the eventfd, which makes
/// room.
pub fn ring(doorbell: impl AsFd) -> io::Result<bool> {
    match rustix::io::write(doorbell, &1u64.to_ne_bytes()) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn tags(poll: &Poll, timeout: Option<Duration>) -> Vec<u64> {
        let mut events = Events::with_capacity(8);
        poll.wait(&mut events, timeout).unwrap();
        events.iter().map(|r| r.tag).collect()
    }

    fn doorbell() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn a_doorbell_that_nobody_reads_reports_every_ring_once() {
        let (poll, bell) = (Poll::new().unwrap(), doorbell());
        poll.add_doorbell(&bell, 7).unwrap();
        for _ in 0..3 {
            assert_eq!(tags(&poll, NOW), [0u64; 0]);
            assert!(ring(&bell).unwrap());
            assert_eq!(tags(&poll, NOW), [7]);
        }
    }

    #[test]
    fn a_ring_before_the_doorbell_was_added_is_not_lost() {
        let (poll, bell) = (Poll::new().unwrap(), doorbell());
        ring(&bell).unwrap();
        poll.add_doorbell(&bell, 7).unwrap();
        assert_eq!(tags(&poll, NOW), [7]);
    }

    #[test]
    fn a_level_is_reported_until_it_is_gone() {
        let (poll, bell) = (Poll::new().unwrap(), doorbell());
        poll.add(&bell, 1, Interest::Read, Trigger::Level).unwrap();
        ring(&bell).unwrap();
        assert_eq!((tags(&poll, NOW), tags(&poll, NOW)), (vec![1], vec![1]));
        rustix::io::read(&bell, &mut [0; 8]).unwrap();
        assert_eq!(tags(&poll, NOW), [0u64; 0]);
    }

    #[test]
    fn interest_can_change_and_end() {
        let (poll, bell) = (Poll::new().unwrap(), doorbell());
        poll.add(&bell, 1, Interest::Read, Trigger::Level).unwrap();
        assert_eq!(tags(&poll, NOW), [0u64; 0]);
        poll.modify(&bell, 2, Interest::Write, Trigger::Level).unwrap();
        assert_eq!(tags(&poll, NOW), [2]);
        poll.remove(&bell).unwrap();
        assert_eq!(tags(&poll, NOW), [0u64; 0]);
    }

    #[test]
    fn a_full_doorbell_is_told_and_hurts_nobody() {
        let bell = doorbell();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert!(!ring(&bell).unwrap());
    }

    #[test]
    fn a_wake_ends_a_wait_without_timeout() {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(&poll, 9).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tags(&poll, None));
            waker.clone().wake().unwrap();
            assert_eq!(waiting.join().unwrap(), [9]);
        });
    }

    #[test]
    fn a_wait_reports_no_more_than_there_is_room_for() {
        let poll = Poll::new().unwrap();
        let bells = [doorbell(), doorbell(), doorbell()];
        for (tag, bell) in (0..).zip(&bells) {
            poll.add_doorbell(bell, tag).unwrap();
            ring(bell).unwrap();
        }
        let mut events = Events::with_capacity(2);
        poll.wait(&mut events, NOW).unwrap();
        assert_eq!(events.iter().count(), 2);
        poll.wait(&mut events, NOW).unwrap();
        assert_eq!(events.iter().count(), 1);
    }
}
