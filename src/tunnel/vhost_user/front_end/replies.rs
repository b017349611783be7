//! What the front-end makes of a back-end's replies: each is checked, and says what comes next.

use std::time::Instant;

use super::{CONFIG_PERIOD, Event, FrontEnd, FrontEndError, LOOK_PERIOD, MOST_PAIRS, OURS, Step};
use crate::spec::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN, protocol, request};
use crate::spec::virtio::{F_VERSION_1, status};
use crate::tunnel::vhost_user::{Fault, Header, Reply, Request};

impl FrontEnd {
    pub(super) fn take_reply(
        &mut self,
        now: Instant,
        header: [u8; HEADER_LEN],
        payload: &[u8],
        fds: usize,
    ) -> Result<(), FrontEndError> {
        let header = Header::parse(header, true)?;
        let got = header.request;
        let awaited = self.awaited.ok_or(FrontEndError::Unasked(got))?;
        if got != awaited.request {
            return Err(FrontEndError::Other { asked: awaited.request, got });
        }
        if fds != 0 {
            return Err(Fault::Descriptors { request: got, got: fds, takes: (0, 0) }.into());
        }
        let reply = Reply::decode(got, payload)?;
        self.awaited = None;
        match (self.step, reply) {
            (_, Reply::Number(0)) if awaited.ack => Ok(()),
            (_, Reply::Number(code)) if awaited.ack => {
                Err(FrontEndError::Refused { request: got, code })
            }
            (step, Reply::Number(number)) => self.take_number(now, step, got, number),
            (step, Reply::Config { offset: 0, data, .. }) => self.take_config(now, step, data),
            (_, Reply::Config { offset, .. }) => Err(FrontEndError::ConfigOffset(offset)),
            // Never asked for.
            (_, Reply::VringBase { .. } | Reply::Inflight(_)) => Err(FrontEndError::Unasked(got)),
        }
    }

    fn take_number(
        &mut self,
        now: Instant,
        step: Step,
        got: u32,
        number: u64,
    ) -> Result<(), FrontEndError> {
        match (step, got) {
            (Step::Learning, request::GET_FEATURES) => self.take_features(number)?,
            (Step::Learning, request::GET_PROTOCOL_FEATURES) => self.take_protocol(number),
            (Step::Learning, request::GET_QUEUE_NUM) => {
                let most = u16::try_from(number).unwrap_or(u16::MAX).min(MOST_PAIRS);
                if most == 0 {
                    return Err(FrontEndError::NoQueues);
                }
                self.pairs = self.config.pairs.min(most);
            }
            (Step::Features, request::GET_STATUS) => {
                if number & u64::from(status::FEATURES_OK) == 0 {
                    return Err(FrontEndError::FeaturesNotTaken(self.features));
                }
                self.need_queues();
            }
            (Step::Rings | Step::Running, request::GET_STATUS) if !runs(number) => {
                return Err(FrontEndError::Status(number));
            }
            // With no status, that it answers says all.
            (Step::Rings, _) => {
                self.step = Step::Running;
                self.next_look = now + LOOK_PERIOD;
                self.events.push_back(Event::Running);
            }
            _ => {}
        }
        self.settle();
        Ok(())
    }

    fn take_features(&mut self, offered: u64) -> Result<(), FrontEndError> {
        if offered >> F_VERSION_1 & 1 == 0 {
            return Err(FrontEndError::NoVersion1);
        }
        self.offered = offered;
        if offered >> F_PROTOCOL_FEATURES & 1 == 1 {
            self.outbox.push_back(Request::GetProtocolFeatures);
        } else {
            self.outbox.push_back(Request::SetOwner);
        }
        Ok(())
    }

    fn take_protocol(&mut self, offered: u64) {
        let mut used = offered & OURS;
        if self.offered & self.config.wanted & self.config.by_config == 0 {
            used &= !protocol::CONFIG;
        }
        if used & protocol::CONFIG == 0 {
            // There would be nothing to tell.
            used &= !protocol::BACKEND_REQ;
        }
        self.outbox.push_back(Request::SetProtocolFeatures(used));
        if used & protocol::MQ != 0 {
            self.outbox.push_back(Request::GetQueueNum);
        }
        self.outbox.push_back(Request::SetOwner);
        if used & protocol::BACKEND_REQ != 0 {
            self.outbox.push_back(Request::SetBackendReqFd);
        }
        if used & protocol::CONFIG != 0 {
            self.outbox.push_back(self.get_config());
        }
        self.protocol = used;
    }

    fn take_config(
        &mut self,
        now: Instant,
        step: Step,
        data: Vec<u8>,
    ) -> Result<(), FrontEndError> {
        // A device without config space answers so.
        if !data.is_empty() && data.len() != usize::from(self.config.config_len) {
            let asked = self.config.config_len.into();
            return Err(FrontEndError::ConfigLength { asked, got: data.len() });
        }
        self.next_reading = now + CONFIG_PERIOD;
        if step == Step::Running && !data.is_empty() && data != self.space {
            self.events.push_back(Event::ConfigChanged { config: data.clone() });
        }
        if step == Step::Learning || !data.is_empty() {
            self.space = data;
        }
        self.settle();
        Ok(())
    }

    /// Settles the features, once all is known that they depend on.
    fn settle(&mut self) {
        if self.step != Step::Learning || self.outbox.iter().any(Request::has_reply) {
            return;
        }
        let without = if self.space.is_empty() { self.config.by_config } else { 0 };
        self.features = (self.config.clean)(self.offered & self.config.wanted & !without);
        let own = self.offered & (1 << F_PROTOCOL_FEATURES);
        let set_features = Request::SetFeatures(self.features | own);
        if !self.has(protocol::STATUS) {
            self.outbox.push_back(set_features);
            return self.need_queues();
        }
        self.step = Step::Features;
        let set = |bits: u8| Request::SetStatus(bits.into());
        let driver = status::ACKNOWLEDGE | status::DRIVER;
        self.outbox.extend([
            set(status::ACKNOWLEDGE),
            set(driver),
            set_features,
            set(driver | status::FEATURES_OK),
            Request::GetStatus,
        ]);
    }

    fn need_queues(&mut self) {
        self.step = Step::Queues;
        let (pairs, features, config) = (self.pairs, self.features, self.space.clone());
        self.events.push_back(Event::QueuesNeeded { pairs, features, config });
    }
}

/// Whether this is the status of a device that runs.
fn runs(status: u64) -> bool {
    let broken = u64::from(status::DEVICE_NEEDS_RESET | status::FAILED);
    status & broken == 0 && status & u64::from(status::DRIVER_OK) != 0
}
