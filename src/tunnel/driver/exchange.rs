//! One request at a time: token, deadline, repetition.
//!
//! Each attempt has a token of its own, so a late answer to an earlier attempt counts for nothing: the
//! state that follows is always the one that the last attempt found. Every request that this end
//! makes may be repeated without harm. The deadline runs from the moment when the request is ready to
//! be sent: an outbox that never drains is an unanswered request too.

use std::time::{Duration, Instant};

use crate::tunnel::message::{Body, Message};

use super::{DEVICE, DriverError};

/// What became of a deadline.
#[derive(Debug)]
pub(super) enum Overdue {
    /// Nothing was due.
    No,
    /// Another attempt is ready to be sent.
    Repeated,
    /// All attempts are used up.
    GivenUp(DriverError),
}

/// The one outstanding request, if any.
#[derive(Debug)]
pub(super) struct Exchange {
    timeout: Duration,
    attempts: u8,
    last_token: u16,
    outstanding: Option<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    body: Body,
    token: u16,
    attempt: u8,
    deadline: Instant,
    unsent: bool,
}

impl Exchange {
    pub(super) fn new(timeout: Duration, attempts: u8, last_token: u16) -> Self {
        Self { timeout, attempts, last_token, outstanding: None }
    }

    /// Starts a request; one that is outstanding is forgotten.
    pub(super) fn begin(&mut self, now: Instant, body: Body) {
        let token = self.fresh_token();
        let deadline = now + self.timeout;
        self.outstanding = Some(Outstanding { body, token, attempt: 1, deadline, unsent: true });
    }

    pub(super) fn cancel(&mut self) {
        self.outstanding = None;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|o| o.deadline)
    }

    /// The request, once per attempt.
    pub(super) fn poll(&mut self) -> Option<Message> {
        let o = self.outstanding.as_mut().filter(|o| o.unsent)?;
        o.unsent = false;
        Some(Message { dev_num: DEVICE, token: o.token, body: o.body.clone() })
    }

    /// Takes `answer` if it is one to the present attempt; the request, and when that attempt began.
    pub(super) fn take_answer(&mut self, answer: &Message) -> Option<(Body, Instant)> {
        let timeout = self.timeout;
        self.outstanding
            .take_if(|o| {
                !o.unsent
                    && o.token == answer.token
                    && answer.dev_num == DEVICE
                    && is_answer(&o.body, &answer.body)
            })
            .map(|o| (o.body, o.deadline - timeout))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Overdue {
        let Some(mut o) = self.outstanding.take_if(|o| o.deadline <= now) else {
            return Overdue::No;
        };
        if o.attempt >= self.attempts {
            let (what, attempts, timeout) = (name(&o.body), o.attempt, self.timeout);
            return Overdue::GivenUp(DriverError::Unanswered { what, attempts, timeout });
        }
        o.attempt += 1;
        o.token = self.fresh_token();
        o.deadline = now + self.timeout;
        o.unsent = true;
        self.outstanding = Some(o);
        Overdue::Repeated
    }

    /// A token that has not been used for a long time; 0 is for events.
    pub(super) fn fresh_token(&mut self) -> u16 {
        self.last_token = self.last_token.checked_add(1).unwrap_or(1);
        self.last_token
    }
}

/// Whether `answer` is the kind of response that belongs to `request`.
fn is_answer(request: &Body, answer: &Body) -> bool {
    matches!(
        (request, answer),
        (Body::Hello(_), Body::HelloBack(_))
            | (Body::Ping { .. }, Body::Pong { .. })
            | (Body::GetDeviceInfo, Body::DeviceInfo { .. })
            | (Body::GetDeviceFeatures { .. }, Body::DeviceFeatures(_))
            | (Body::SetDriverFeatures(_), Body::DriverFeaturesSet)
            | (Body::GetConfig { .. }, Body::Config { .. })
            | (Body::GetDeviceStatus, Body::DeviceStatus { .. })
            | (Body::SetDeviceStatus { .. }, Body::DeviceStatusSet { .. })
            | (Body::GetVqueue { .. }, Body::Vqueue(_))
            | (Body::SetVqueue { .. }, Body::VqueueSet)
    )
}

/// The standard's name of a request that this end makes.
pub(super) fn name(request: &Body) -> &'static str {
    match request {
        Body::Hello(_) => "HELLO",
        Body::Ping { .. } => "PING",
        Body::GetDeviceInfo => "GET_DEVICE_INFO",
        Body::GetDeviceFeatures { .. } => "GET_DEVICE_FEATURES",
        Body::SetDriverFeatures(_) => "SET_DRIVER_FEATURES",
        Body::GetConfig { .. } => "GET_CONFIG",
        Body::GetDeviceStatus => "GET_DEVICE_STATUS",
        Body::SetDeviceStatus { .. } => "SET_DEVICE_STATUS",
        Body::GetVqueue { .. } => "GET_VQUEUE",
        Body::SetVqueue { .. } => "SET_VQUEUE",
        _ => "a request",
    }
}
