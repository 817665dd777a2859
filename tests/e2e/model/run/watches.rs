//! The watch streams of a program.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_model::cluster::StreamId;
use etcd_proxy_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use prost::Message;

use super::{Run, WATCH};
use crate::{
    counts::Counts,
    lanes::{Difference, Lanes},
    normal::Ids,
    program::{By, Op, Pace, STREAMS},
    real_side::{ANSWER_LIMIT, Stream},
};

/// Longer than an etcd leaves a watcher behind (it looks every 100 ms).
const CATCH_UP_TIME: Duration = Duration::from_millis(250);

/// What the model may have on the way on a watch stream of a loose program, where clients are slow.
const ROOM: u32 = 8;

/// A watch stream on both sides.
pub(super) struct Slot {
    real: Stream,
    model: StreamId,
    lanes: Lanes,
    half_closed: bool,
    /// Messages that the model may have on the way to its client.
    room: u32,
    /// How many more it may send.
    credit: u32,
}

impl Run {
    /// An operation on a watch stream.
    pub(super) async fn watch_op(&mut self, op: &Op, counts: &mut Counts) -> Result<(), Difference> {
        match op {
            Op::Open(slot, by, require_leader) => self.open(*slot, by, *require_leader, counts).await,
            Op::Close(slot) => {
                if let Some(slot) = self.slots[*slot].take() {
                    self.model.close(slot.model);
                    counts.op("watch close", None);
                }
            }
            Op::HalfClose(slot) => {
                if let Some(slot) = self.slots[*slot].as_mut().filter(|slot| !slot.half_closed) {
                    slot.half_closed = true;
                    slot.real.half_close();
                    self.model.half_close(slot.model);
                    counts.op("watch half-close", None);
                }
            }
            Op::Nothing(slot) => self.request(*slot, "watch nothing", None, counts).await,
            Op::Create(slot, request) => self.create(*slot, request, counts).await?,
            Op::Cancel(slot, id) => {
                // What comes before the answer to a cancel and what is dropped is chance for a watcher that is behind.
                self.quiet(counts).await?;
                let request = pb::WatchCancelRequest { watch_id: *id };
                self.request(
                    *slot,
                    "watch cancel",
                    RequestUnion::CancelRequest(request),
                    counts,
                )
                .await;
                // Its place among the writes counts.
                self.quiet(counts).await?;
            }
            Op::Progress(slot) => {
                self.quiet(counts).await?;
                let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest::default());
                self.request(*slot, "watch progress", request, counts).await;
                // Its place among the writes counts.
                self.quiet(counts).await?;
            }
            Op::Call(..) | Op::KeepAlive(..) | Op::ShortLease { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, slot: usize, by: &By, require_leader: bool, counts: &mut Counts) {
        if self.slots[slot].is_none() {
            let [real_by, model_by] = self.by(by);
            let room = match self.pace {
                Pace::Lockstep => u32::MAX,
                Pace::Loose => ROOM,
            };
            self.slots[slot] = Some(Slot {
                real: self.real.open(WATCH, &real_by, require_leader).await,
                model: self.model.open(WATCH, &model_by, require_leader, room),
                lanes: Lanes::new(self.pace),
                half_closed: false,
                room,
                credit: room,
            });
            counts.op("watch open", None);
        }
    }

    async fn create(
        &mut self,
        slot: usize,
        request: &pb::WatchCreateRequest,
        counts: &mut Counts,
    ) -> Result<(), Difference> {
        let mut request = request.clone();
        request.start_revision = self.numbers()[0].number(request.start_revision);
        if request.watch_id != 0 {
            // The id may be that of a watcher that is being overtaken by a compaction.
            self.quiet(counts).await?;
        }
        self.behind |= (1..=self.current).contains(&request.start_revision);
        let request = RequestUnion::CreateRequest(request);
        self.request(slot, "watch create", request, counts).await;
        // Its place among the writes counts.
        self.allow_all()?;
        self.exchange(Lanes::waits_for_answer, counts).await?;
        Ok(())
    }

    async fn request(
        &mut self,
        slot: usize,
        kind: &'static str,
        request: impl Into<Option<RequestUnion>>,
        counts: &mut Counts,
    ) {
        if let Some(slot) = self.slots[slot].as_mut().filter(|slot| !slot.half_closed) {
            let request = pb::WatchRequest {
                request_union: request.into(),
            };
            let message = Bytes::from(request.encode_to_vec());
            slot.real.send(message.clone()).await;
            self.model.send(slot.model, message);
            counts.op(kind, None);
        }
    }

    /// Lets the model send all it has on its watch streams, where it needs to be let.
    fn allow_all(&mut self) -> Result<(), Difference> {
        loop {
            for slot in self.slots.iter_mut().flatten() {
                self.model.allow(slot.model, slot.room - slot.credit);
                slot.credit = slot.room;
            }
            if self.pace == Pace::Loose {
                // A watcher that fell behind its client is looked at again after a while.
                self.model.pass(CATCH_UP_TIME);
            }
            if self.model_responses()? == 0 || self.pace == Pace::Lockstep {
                return Ok(());
            }
        }
    }

    /// Takes in what the model sent on its watch streams, and says how many messages.
    pub(super) fn model_responses(&mut self) -> Result<usize, Difference> {
        let mut count = 0;
        for slot in self.slots.iter_mut().flatten() {
            for message in self.model.take(slot.model) {
                count += 1;
                slot.credit = slot.credit.saturating_sub(1);
                let mut response = watched(message)?;
                self.model_ids.watch(&mut response);
                slot.lanes.model(response, self.current)?;
            }
        }
        Ok(count)
    }

    /// Lets the model's time pass, in which the store gains some revisions without a request. Gives whether there
    /// are responses on watch streams which the real etcd has not sent yet.
    pub(crate) fn pass(&mut self, time: Duration, revisions: i64) -> Result<bool, Difference> {
        self.model.pass(time);
        self.current += revisions;
        self.model_responses()?;
        Ok(self.slots.iter().flatten().any(|slot| slot.lanes.waits()))
    }

    /// Waits until all that the model said on watch streams has come from the real etcd too, and compares.
    pub(crate) async fn quiet(&mut self, counts: &mut Counts) -> Result<(), Difference> {
        self.allow_all()?;
        self.exchange(Lanes::waits, counts).await?;
        if self.behind {
            self.behind = false;
            // Only now has the real etcd seen the request that made the watcher.
            self.real.all_synced().await;
            self.model.pass(CATCH_UP_TIME);
            self.allow_all()?;
            self.exchange(Lanes::waits, counts).await?;
        }
        for slot in self.slots.iter().flatten() {
            if let Some(difference) = slot.lanes.unequal() {
                return Err(difference);
            }
            let (real, model) = (slot.real.end(), self.model.end(slot.model));
            if real != model {
                return Err(format!(
                    "end of a watch stream\n  real:  {real:?}\n  model: {model:?}"
                ));
            }
        }
        Ok(())
    }

    /// Takes in what the real etcd sends until nothing of what the model said, and what is waited for, is missing.
    async fn exchange(&mut self, waits: fn(&Lanes) -> bool, counts: &mut Counts) -> Result<(), Difference> {
        for slot in self.slots.iter_mut().flatten() {
            let ends = self.model.end(slot.model).is_some();
            loop {
                while let Some(message) = slot.real.ready().await {
                    take_real(&self.real_ids, self.current, &mut slot.lanes, message, counts)?;
                }
                slot.lanes.settle()?;
                if (!waits(&slot.lanes) && !ends) || slot.real.end().is_some() {
                    break;
                }
                match tokio::time::timeout(ANSWER_LIMIT, slot.real.message()).await {
                    Ok(Some(message)) => {
                        take_real(&self.real_ids, self.current, &mut slot.lanes, message, counts)?;
                    }
                    Ok(None) => {}
                    // What is missing shows as a difference.
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }

    /// What only the real etcd says may come late: answers to further requests push it out.
    pub(super) async fn finish(&mut self, counts: &mut Counts) -> Result<(), Difference> {
        self.behind = true;
        self.quiet(counts).await?;
        for _ in 0..3 {
            for slot in 0..STREAMS {
                let request = RequestUnion::CreateRequest(pb::WatchCreateRequest {
                    key: "a".into(),
                    range_end: "a".into(),
                    ..Default::default()
                });
                self.request(slot, "watch create", request, counts).await;
            }
            self.quiet(counts).await?;
        }
        Ok(())
    }
}

fn take_real(
    ids: &Ids,
    current: i64,
    lanes: &mut Lanes,
    message: Bytes,
    counts: &mut Counts,
) -> Result<(), Difference> {
    let mut response = watched(message)?;
    ids.watch(&mut response);
    counts.watch(&response);
    lanes.real(response, current)
}

fn watched(message: Bytes) -> Result<pb::WatchResponse, Difference> {
    pb::WatchResponse::decode(message).map_err(|error| format!("watch response: {error}"))
}
