//! One end of a link whose driver is the front-end of vhost-user, without I/O: the device model, its
//! data paths, and what the front-end has set up.
//!
//! Inputs are `handle_message`, `handle_kick` (of the control queue), `handle_netdev`, and from
//! workers `handle_pair_stopped`, `handle_broken` and `handle_stopped`. After each, drain
//! [`BackEndLink::poll_event`]. While it [is busy](BackEndLink::is_busy) it takes no message: one
//! waits until the workers of what it touches have stopped.
//!
//! A connection has one of these, from its beginning to its end. A pair runs while both its rings do;
//! whenever it stops, its data path is taken apart, and all that is left is where its rings go on.
//!
//! What a front-end asks wrongly ends the connection ([`Event::Close`]). What its driver writes wrongly
//! into a ring stops all rings until the front-end stops them itself: the driver may be a guest's, and a
//! reset of the device is its remedy. The descriptor for errors is rung.
//!
//! A front-end may keep the control queue to itself, as QEMU does: then it accepts no `CTRL_VQ`, features
//! that need one count for nothing, and it says by `SET_VRING_ENABLE` how many pairs are used.

use std::collections::VecDeque;
use std::sync::Arc;

use super::setup::{config_from, config_of};
use super::{QUEUE_SIZE, Start, State};
use crate::memory::BusMemory;
use crate::net::control::ControlPath;
use crate::net::engine_path::EngineUse;
use crate::net::features::Features;
use crate::net::frame::{Drop, Offloads};
use crate::net::model::{self, NetDevice, QueueSetup};
use crate::net::path::{Path, Which};
use crate::net::settings::Settings;
use crate::spec::net;
use crate::spec::vhost_user::{BACKEND_CONFIG_CHANGE, HEADER_LEN, flags, protocol};
use crate::spec::virtio::{self, status};
use crate::tunnel::model::Device;
use crate::tunnel::vhost_user::back_end::{BackEnd, Descriptor, Offer, Touched};
use crate::tunnel::vhost_user::{Header, Reply, Request, encode};
use crate::virtqueue::{At, Journal, QueueConfig, Start as Begin};

mod rings;
#[cfg(test)]
mod tests;

/// What makes this end.
#[derive(Clone, Debug)]
pub struct Params {
    /// Features that are not offered.
    pub features_off: Features,
    /// The MAC address that config space offers to the driver.
    pub mac: [u8; 6],
    /// The greatest MTU.
    pub mtu: u16,
    /// Most queue pairs.
    pub pairs: u16,
    /// Payload goes by engine, used like this.
    pub engine: Option<EngineUse>,
}

/// What the owner of the link must do or learn.
#[derive(Debug)]
pub enum Event<F> {
    /// The state, and why.
    State(State, String),
    /// The netdev is to do with these features. Data paths follow.
    Start(Start),
    /// Give this data path to a worker.
    StartPair(StartPair<F>),
    /// Take this pair's data path back from its worker, with nothing under way, and give it to
    /// [`handle_pair_stopped`](BackEndLink::handle_pair_stopped).
    StopPair(u16),
    /// Stop all workers, whose data paths are done with, then call
    /// [`handle_stopped`](BackEndLink::handle_stopped).
    Stop,
    /// A frame of this pair, on its way to or from this queue, was lost as the pair stopped.
    Dropped(u16, Which, Drop),
    /// The driver takes these offloads from now on.
    Offloads(Offloads),
    /// Whether the netdev is to have a carrier.
    Carrier(bool),
    /// Wait for this descriptor to be rung and then call [`handle_kick`](BackEndLink::handle_kick), in
    /// place of the one before.
    Watch(Option<F>),
    /// Ring this.
    Ring(F),
    /// Send this to the front-end.
    Send(Vec<u8>, Option<F>),
    /// Send this on the socket for requests of ours.
    Tell(F, Vec<u8>),
    /// Close the connection: why. The state says it too. All pairs have been told to stop, and nothing is
    /// started any more.
    Close(String),
}

/// A pair's data path.
#[derive(Debug)]
pub struct StartPair<F> {
    /// Number of the pair.
    pub pair: u16,
    /// The data path.
    pub path: Box<dyn Path>,
    /// The memory that it is in.
    pub mem: Arc<BusMemory>,
    /// What the front-end rings: of the receiveq and of the transmitq.
    pub kicks: [F; 2],
    /// What it wants to be rung by; `None` if it polls.
    pub calls: [Option<F>; 2],
    /// What the driver sets at run time.
    pub settings: Arc<Settings>,
}

/// Who has a pair's data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    /// Nobody: there is none.
    AtRest,
    /// A worker.
    Running,
    /// A worker that was told to give it back.
    Leaving,
}

/// A request that waits until what it touches is at rest.
#[derive(Debug)]
struct Waiting<F> {
    request: Request,
    fds: Vec<F>,
    need_reply: bool,
}

/// The device's end of a link to a front-end.
#[derive(Debug)]
pub struct BackEndLink<F> {
    params: Params,
    back: BackEnd<F>,
    model: NetDevice,
    /// The table that running pairs are in.
    mem: Arc<BusMemory>,
    waiting: Option<Waiting<F>>,
    pairs: Vec<Pair>,
    control: Option<ControlPath>,
    /// How many pairs the driver uses, once it says so by the control queue.
    used_pairs: u16,
    /// The control queue has passed by the front-end since the last reset, so only these are used.
    passed: bool,
    /// Offloads that the driver has chosen since then.
    offloads: Option<Offloads>,
    /// Resets of the back-end that the model has followed.
    resets: u32,
    /// `Start` is out since the last reset.
    started: bool,
    /// What a ring broke by; nothing runs.
    broken: Option<String>,
    /// `Stop` is out, and workers have not all stopped.
    stopping: bool,
    /// Pairs whose workers will not say where the rings go on.
    lost: Vec<u16>,
    /// Memory was taken away last: what takes its place may follow.
    more_memory: bool,
    /// Commands were left for the next turn.
    more: bool,
    closed: bool,
    said: Option<(State, String)>,
    events: VecDeque<Event<F>>,
}

impl<F: Descriptor> BackEndLink<F> {
    /// A front-end has connected.
    pub fn new(params: Params) -> Self {
        let mut off = params.features_off;
        // There is no table of translations to be asked for, and memory is coherent. No message resets a
        // queue, and QEMU (10.0) lets a driver do it without a word to the back-end.
        off = off.union(Features::of(&[
            virtio::F_ACCESS_PLATFORM,
            virtio::F_ORDER_PLATFORM,
            virtio::F_RING_RESET,
        ]));
        if params.pairs == 1 {
            off = off.union(Features::of(&[net::F_MQ]));
        }
        let features = Features::OFFER.without(off);
        let mut model = NetDevice::new(model::Offer {
            features,
            mac: params.mac,
            mtu: params.mtu,
            rx_size: QUEUE_SIZE,
            tx_size: QUEUE_SIZE,
            pairs: params.pairs,
        })
        .without_queues();
        model.set_link(true);
        let [low, high] = [features.block(0), features.block(1)].map(u64::from);
        let offer =
            Offer { features: low | high << 32, pairs: params.pairs, journal_len: Journal::len };
        let back = BackEnd::new(offer);
        let mut link = Self {
            pairs: vec![Pair::AtRest; usize::from(params.pairs)],
            mem: back.memory().clone(),
            resets: back.resets(),
            params,
            back,
            model,
            waiting: None,
            control: None,
            used_pairs: 1,
            passed: false,
            offloads: None,
            started: false,
            broken: None,
            stopping: false,
            lost: Vec::new(),
            more_memory: false,
            more: false,
            closed: false,
            said: None,
            events: VecDeque::new(),
        };
        link.say(State::Negotiating, "the front-end sets up its device");
        link
    }

    /// A message came, whose descriptors these are.
    ///
    /// # Panics
    /// If the link is busy.
    pub fn handle_message(&mut self, header: [u8; HEADER_LEN], payload: &[u8], fds: Vec<F>) {
        assert!(self.waiting.is_none(), "one message at a time");
        if self.closed {
            return;
        }
        let request = Header::parse(header, false).and_then(|header| {
            let request = Request::decode(header.request, payload, fds.len())?;
            Ok((request, header.flags & flags::NEED_REPLY != 0))
        });
        match request {
            Ok((request, need_reply)) => {
                self.waiting = Some(Waiting { request, fds, need_reply });
                self.turn();
            }
            Err(fault) => self.close(&fault.to_string()),
        }
    }

    /// The control queue was kicked, or there [is more](Self::has_more).
    pub fn handle_kick(&mut self) {
        self.more = false;
        self.turn_control();
    }

    /// Whether the netdev is set up. Of the rest of its settings virtio-net can tell the driver nothing.
    pub fn handle_netdev(&mut self, up: bool) {
        if self.model.set_link(up) {
            self.tell_config_changed();
        }
    }

    /// The worker of this pair has given its data path back; `None`: it could not.
    pub fn handle_pair_stopped(&mut self, pair: u16, path: Option<Box<dyn Path>>) {
        let Some(state) = self.pairs.get_mut(usize::from(pair)) else { return };
        // A pair that started before all have stopped would be taken for stopped then.
        let after = if self.stopping { Pair::Leaving } else { Pair::AtRest };
        if *state == Pair::AtRest {
            return;
        }
        *state = after;
        match path {
            Some(mut path) => {
                let positions = path.halt(&self.mem);
                let waited = std::iter::from_fn(|| path.tick()).map(|why| (Which::Receiveq, why));
                let mut lost: Vec<_> = waited.collect();
                lost.extend(std::iter::from_fn(|| path.poll_drop()));
                let lost = lost.into_iter().map(|(which, why)| Event::Dropped(pair, which, why));
                self.events.extend(lost);
                for (index, position) in (2 * pair..).zip(positions) {
                    if let Some(position) = position {
                        self.back.set_base(index, position.base());
                    }
                }
                self.turn();
            }
            None => self.handle_broken("a worker did not give its queues back"),
        }
    }

    /// All workers have stopped.
    pub fn handle_stopped(&mut self) {
        self.stopping = false;
        self.pairs.fill(Pair::AtRest);
        for pair in std::mem::take(&mut self.lost) {
            [2 * pair, 2 * pair + 1].into_iter().for_each(|index| self.find_base(index));
        }
        self.turn();
    }

    /// A worker found a ring broken. [`Event::Stop`] follows.
    pub fn handle_broken(&mut self, reason: &str) {
        if self.broken.is_some() || self.closed {
            return;
        }
        self.broken = Some(reason.to_owned());
        self.back.needs_reset();
        self.tell_config_changed();
        self.drop_control();
        let rings = 0..=2 * self.params.pairs;
        let errs = rings.filter_map(|index| self.back.ring(index)?.err.clone());
        self.events.extend(errs.map(Event::Ring));
        let pairs = (0..self.params.pairs).zip(&self.pairs);
        self.lost.extend(pairs.filter(|(_, pair)| **pair != Pair::AtRest).map(|(pair, _)| pair));
        self.pairs.fill(Pair::Leaving);
        self.events.push_back(Event::Carrier(false));
        if !std::mem::replace(&mut self.stopping, true) {
            self.events.push_back(Event::Stop);
        }
        self.say(State::Down, &format!("{reason}; it goes on when the device is reset"));
    }

    /// The next thing to do or to learn.
    pub fn poll_event(&mut self) -> Option<Event<F>> {
        self.events.pop_front()
    }

    /// Whether a message waits to be carried out, and no other one is to come.
    pub fn is_busy(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether there are commands left that no kick announces; call [`handle_kick`](Self::handle_kick) soon.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// The protocol features that the front-end has accepted.
    pub fn protocol(&self) -> u64 {
        self.back.protocol()
    }

    /// Carries out what waits, if it can be, and then lets run what is to run.
    fn turn(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            if !self.has_rested(&waiting.request) {
                self.waiting = Some(waiting);
                return;
            }
            self.carry_out(&waiting);
        }
        self.follow_reset();
        self.settle();
        // A command may wait for what has just come to rest.
        if self.control.as_ref().is_some_and(ControlPath::waits) {
            self.turn_control();
        }
    }

    /// Takes back what the request touches; whether all of it is here.
    fn has_rested(&mut self, request: &Request) -> bool {
        let touched = self.back.touches(request);
        let control = u32::from(self.controlq());
        if touched == Touched::All || touched == Touched::Ring(control) {
            self.drop_control();
        }
        let mut rested = true;
        for pair in 0..self.params.pairs {
            let is_touched = match touched {
                Touched::Nothing => false,
                Touched::Ring(index) => index / 2 == u32::from(pair),
                Touched::All => true,
            };
            if is_touched {
                self.stop_pair(pair);
                rested &= self.pairs[usize::from(pair)] == Pair::AtRest;
            }
        }
        rested
    }

    fn carry_out(&mut self, waiting: &Waiting<F>) {
        let Waiting { request, fds, need_reply } = waiting;
        let mut config = [0; size_of::<net::Config>()];
        self.model.read_config(0, &mut config);
        match self.back.handle(request, fds.clone(), *need_reply, &config) {
            Ok(Some((octets, fd))) => self.events.push_back(Event::Send(octets, fd)),
            Ok(None) => {}
            Err(refusal) => {
                let asked = *need_reply && self.back.protocol() & protocol::REPLY_ACK != 0;
                // Those with a reply of their own have none that says no.
                if asked && !request.has_reply() {
                    let nack = Reply::Number(1).encode(request.number());
                    self.events.push_back(Event::Send(nack, None));
                }
                return self.close(&refusal.to_string());
            }
        }
        // From here on it is the front-end that knows where a ring goes on.
        match *request {
            Request::GetVringBase { index } => self.forget_in_flight(u16::try_from(index).ok()),
            Request::SetStatus(0) | Request::ResetDevice | Request::ResetOwner => {
                self.forget_in_flight(0..=2 * self.params.pairs);
            }
            _ => {}
        }
        // Some front-ends only disable the rings of a driver that begins anew.
        let stops = matches!(request, Request::GetVringBase { .. }) || self.broken.is_some();
        if stops && !(0..2 * self.params.pairs).any(|index| self.back.runs(index)) {
            self.rest();
            self.broken = None;
        }
        self.more_memory = matches!(request, Request::RemMemReg(_));
    }

    /// The device forgets all, and takes the features that there are now.
    fn follow_reset(&mut self) {
        if self.resets == self.back.resets() {
            return;
        }
        self.resets = self.back.resets();
        self.rest();
        self.broken = None;
        (self.used_pairs, self.passed, self.offloads) = (1, false, None);
        self.model.set_status(0);
        while self.model.poll_event().is_some() {}
        self.model.quiesced();
        let Some(bits) = self.back.accepted() else { return };
        // Some of it may be nothing without what the front-end keeps to itself.
        let accepted = Features::from_bits(bits.into()).without(Features::NONE);
        for block in 0..2 {
            self.model.set_driver_features(block, accepted.block(block));
        }
        let steps = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.model.set_status(steps.into());
        if let Some(refused) = self.model.refused() {
            self.back.refuse_features();
            let why = format!("its driver's features will not do: {refused}");
            self.say(State::Waiting, &why);
        }
    }

    /// Nothing runs, and the next start is one of its own.
    fn rest(&mut self) {
        if std::mem::take(&mut self.started) {
            self.events.push_back(Event::Carrier(false));
            self.say(State::Negotiating, "the front-end has stopped its rings");
        }
    }

    fn stop_pair(&mut self, pair: u16) {
        let state = &mut self.pairs[usize::from(pair)];
        if *state == Pair::Running {
            *state = Pair::Leaving;
            self.events.push_back(Event::StopPair(pair));
        }
    }

    fn close(&mut self, why: &str) {
        self.closed = true;
        self.waiting = None;
        self.drop_control();
        (0..self.params.pairs).for_each(|pair| self.stop_pair(pair));
        self.say(State::Down, why);
        self.events.push_back(Event::Close(why.to_owned()));
    }

    fn tell_config_changed(&mut self) {
        if let Some(channel) = self.back.back_channel().filter(|_| !self.closed) {
            let octets = encode(BACKEND_CONFIG_CHANGE, 0, &[]);
            self.events.push_back(Event::Tell(channel.clone(), octets));
        }
    }

    fn say(&mut self, state: State, reason: &str) {
        let news = (state, reason.to_owned());
        if self.said.as_ref() != Some(&news) {
            self.said = Some(news.clone());
            self.events.push_back(Event::State(news.0, news.1));
        }
    }
}
