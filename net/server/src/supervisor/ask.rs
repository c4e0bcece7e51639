//! Questions whose answers hold what guests count: the guests are asked first, and given a moment.
//!
//! A guest that does not answer in time (it is stopped, or has no processor) is described by what it said last.

use super::Supervisor;
use crate::control;
use net::control::ToGuest;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Guests answer within this time, or what they said before is told.
const MOMENT: Duration = Duration::from_millis(30);

/// What a visitor wants to know.
pub(super) enum Question {
    Status,
    Explain(String),
}

/// A visitor who waits.
pub(super) struct Asked {
    visitor: OwnedFd,
    question: Question,
    /// Guests that have not answered yet.
    silent: Vec<u32>,
    until: Instant,
}

impl Supervisor {
    pub(super) fn ask_guests(&mut self, visitor: OwnedFd, question: Question) {
        let about = |name: &str| match &question {
            Question::Status => true,
            Question::Explain(guest) => guest == name,
        };
        let asked = self.guests.iter().filter(|guest| about(&guest.place.name));
        let silent = asked.inspect(|guest| guest.tell(0, ToGuest::Report)).map(|guest| guest.id).collect();
        self.asked.push(Asked { visitor, question, silent, until: Instant::now() + MOMENT });
        self.answer_asked();
    }

    /// A guest has counted, or is gone.
    pub(super) fn has_answered(&mut self, guest: u32) {
        self.asked.iter_mut().for_each(|asked| asked.silent.retain(|id| *id != guest));
    }

    pub(super) fn asked_deadline(&self) -> Option<Instant> {
        self.asked.iter().map(|asked| asked.until).min()
    }

    /// Answers whoever need not wait any longer.
    pub(super) fn answer_asked(&mut self) {
        let now = Instant::now();
        let due = |asked: &mut Asked| asked.silent.is_empty() || asked.until <= now;
        let due: Vec<Asked> = self.asked.extract_if(.., due).collect();
        for Asked { visitor, question, .. } in due {
            match question {
                Question::Status => self.tell_status(visitor.as_fd()),
                Question::Explain(guest) => {
                    let _ = control::post(visitor.as_fd(), &self.explain(&guest), &[]);
                }
            }
        }
    }
}
