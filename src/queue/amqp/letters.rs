//! Dead letters: looking into `buildgrid.dead` without taking anything out, and taking out what an
//! operator names.
//!
//! A look takes letters without acknowledging them and gives all of them back at the end, or when its
//! channel is lost. While it lasts, nobody else sees them.

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use lapin::{Acker, Channel};

use super::broker::Broker;
use super::error::BrokerError;
use super::letter;
use super::message::{Headers, REQUEUE, short};
use super::publish::Message;
use crate::queue::letter::{Letter, LetterError, Letters, Selection, the_one};

impl Broker {
    /// The oldest dead letters, at most `most` of them. None is taken out.
    pub async fn dead_letters(&self, most: usize) -> Result<Letters, BrokerError> {
        let look = Look::open(self).await?;
        let mut letters = Vec::new();
        let mut more = 0;
        while letters.len() < most
            && let Some(taken) = look.next().await?
        {
            letters.push(taken.letter);
            more = taken.behind;
        }
        look.close().await?;
        letters.sort_by(|a, b| (&a.at, &a.name).cmp(&(&b.at, &b.name)));
        Ok(Letters { letters, more })
    }

    /// One letter and the event's bytes as they came. It is not taken out.
    pub async fn dead_letter_named(&self, name: &str) -> Result<(Letter, Vec<u8>), LetterError> {
        let look = Look::open(self).await?;
        let selected = look.select(&[name.to_owned()]).await;
        look.close().await?;
        let taken = selected?.into_iter().next().ok_or_else(|| LetterError::Unknown(name.to_owned()))?;
        Ok((taken.letter, taken.body))
    }

    /// Puts letters back into the builds queue, as a first attempt. Each is confirmed there before it
    /// is taken out here, and then told to `done`.
    pub async fn requeue_letters(
        &self,
        selection: &Selection,
        done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        self.take_out(selection, true, done).await
    }

    /// Throws letters away, for ever, telling each to `done`.
    pub async fn drop_letters(
        &self,
        selection: &Selection,
        done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        self.take_out(selection, false, done).await
    }

    async fn take_out(
        &self,
        selection: &Selection,
        requeue: bool,
        mut done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        let look = Look::open(self).await?;
        match selection {
            Selection::Named(names) => {
                for taken in look.select(names).await? {
                    self.settle(&taken, requeue).await?;
                    done(&taken.letter);
                }
            }
            Selection::All => {
                let mut left = u32::MAX;
                while left > 0
                    && let Some(taken) = look.next().await?
                {
                    // As many as there were at first: one that comes back meanwhile is not taken again.
                    left = (left - 1).min(taken.behind);
                    self.settle(&taken, requeue).await?;
                    done(&taken.letter);
                }
            }
        }
        look.close().await?;
        Ok(())
    }

    async fn settle(&self, taken: &Taken, requeue: bool) -> Result<(), BrokerError> {
        if requeue {
            let message = Message {
                exchange: "",
                key: &self.config().builds,
                mandatory: true,
                properties: Headers::default().text(REQUEUE, &taken.letter.name).into_properties(),
                body: &taken.body,
            };
            self.publisher().publish(&message).await?;
        }
        match taken.acker.ack(BasicAckOptions::default()).await? {
            true => Ok(()),
            false => Err(BrokerError::Lost(format!("letter {} may still stand here", taken.letter.name))),
        }
    }
}

/// A letter that is held until the look ends.
struct Taken {
    letter: Letter,
    body: Vec<u8>,
    acker: Acker,
    /// Letters that were behind it in the queue, without those that others held.
    behind: u32,
}

struct Look {
    channel: Channel,
    queue: ShortString,
}

impl Look {
    async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let up = broker.consuming().up().await?;
        let channel = up.connection.create_channel().await?;
        Ok(Self { channel, queue: short(&broker.config().dead)? })
    }

    async fn next(&self) -> Result<Option<Taken>, BrokerError> {
        let got = self.channel.basic_get(self.queue.clone(), BasicGetOptions::default()).await?;
        Ok(got.map(|got| {
            let (delivery, behind) = (got.delivery, got.message_count);
            let letter = letter::read(&delivery.properties, &delivery.data);
            Taken { letter, body: delivery.data, acker: delivery.acker, behind }
        }))
    }

    /// Takes the letters that `names` stand for; fails if one stands for none or for several. The bodies
    /// of all others are let go of at once.
    async fn select(&self, names: &[String]) -> Result<Vec<Taken>, LetterError> {
        let mut selected: Vec<Vec<Taken>> = names.iter().map(|_| Vec::new()).collect();
        while let Some(taken) = self.next().await? {
            if let Some(index) = names.iter().position(|name| taken.letter.answers_to(name)) {
                selected[index].push(taken);
            }
        }
        let one = |(name, found): (&String, Vec<Taken>)| the_one(name, found, |taken| &taken.letter);
        names.iter().zip(selected).map(one).collect()
    }

    /// Gives back what is still held.
    async fn close(&self) -> Result<(), BrokerError> {
        let all = BasicNackOptions { multiple: true, requeue: true };
        self.channel.basic_nack(0, all).await?;
        self.channel.close(200, "looked".into()).await?;
        Ok(())
    }
}
