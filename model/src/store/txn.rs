//! Transactions.
//!
//! etcd decides all branches, nested ones too, on what is there before the first operation, then checks the operations
//! of the branches taken, and only then executes them.

use alloc::vec::Vec;
use core::cmp::Ordering;

use etcd_proxy_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::response_op::Response;
use etcd_proxy_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use etcd_proxy_proto::mvccpb::KeyValue;

use super::{KeyRange, Store, Writer};
use crate::error::Error;
use crate::lease::Leases;

/// Whether a transaction can't change anything, so that it doesn't go through the log. A nested one counts as a change,
/// whatever is in it.
#[must_use]
pub fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|request| matches!(request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction asks for nothing newer than what the member happens to have.
#[must_use]
pub fn is_serializable(request: &TxnRequest) -> bool {
    operations(request)
        .all(|request| matches!(request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Whether a transaction might put something itself; what is nested in it, etcd doesn't look at.
pub(crate) fn has_put(request: &TxnRequest) -> bool {
    operations(request).any(|request| matches!(request, Some(Request::RequestPut(_))))
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = Option<&Request>> {
    let operations = request.success.iter().chain(&request.failure);
    operations.map(|operation| operation.request.as_ref())
}

/// The branches that a transaction takes.
struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Operation(&'a Request),
    Txn(Plan<'a>),
}

impl Store {
    /// Answers a transaction that [reads only](is_read_only).
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`], [`Error::FutureRevision`] from one of its ranges.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let plan = self.plan(request);
        self.check_ranges(&plan)?;
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in plan.steps {
            // Anything else would not be read-only.
            if let Step::Operation(Request::RequestRange(range)) = step {
                responses.push(response_op(Response::ResponseRange(self.range(range)?)));
            }
        }
        Ok(TxnResponse {
            header: Self::header(self.revision),
            succeeded: plan.succeeded,
            responses,
        })
    }

    fn plan<'a>(&self, request: &'a TxnRequest) -> Plan<'a> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let taken = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let step = |operation: &'a RequestOp| match operation.request.as_ref()? {
            Request::RequestTxn(nested) => Some(Step::Txn(self.plan(nested))),
            request => Some(Step::Operation(request)),
        };
        Plan {
            succeeded,
            steps: taken.iter().filter_map(step).collect(),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs = self
            .scan(KeyRange::new(&compare.key, &compare.range_end), self.revision)
            .peekable();
        if kvs.peek().is_none() {
            // A key that doesn't exist has a version, but no value that could be compared.
            return compare.target != CompareTarget::Value as i32 && matches(compare, &KeyValue::default());
        }
        kvs.all(|kv| matches(compare, kv))
    }

    fn check_ranges(&self, plan: &Plan<'_>) -> Result<(), Error> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Txn(nested) => self.check_ranges(nested),
            // Unlike in a Range of its own, a revision below 0 counts.
            Step::Operation(Request::RequestRange(RangeRequest { revision, .. })) if *revision != 0 => {
                if *revision > self.revision {
                    Err(Error::FutureRevision)
                } else if *revision < self.compacted {
                    Err(Error::Compacted)
                } else {
                    Ok(())
                }
            }
            Step::Operation(_) => Ok(()),
        })
    }

    fn check_puts(&self, plan: &Plan<'_>, leases: &Leases) -> Result<(), Error> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Txn(nested) => self.check_puts(nested, leases),
            Step::Operation(Request::RequestPut(put)) => {
                let ignore = put.ignore_value || put.ignore_lease;
                if ignore && self.at(&put.key, self.revision).is_none() {
                    return Err(Error::KeyNotFound);
                }
                check_lease(put, leases)
            }
            Step::Operation(_) => Ok(()),
        })
    }
}

impl Writer<'_> {
    /// Executes a transaction and makes its revision.
    ///
    /// # Errors
    ///
    /// Nothing has changed then. A transaction that deletes a key and then puts it with `ignore_value` or
    /// `ignore_lease` makes an etcd server panic; here it is [`Error::KeyNotFound`].
    pub(crate) fn txn(mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let plan = self.store.plan(request);
        self.store.check_puts(&plan, self.leases)?;
        self.store.check_ranges(&plan)?;
        match self.execute(plan) {
            Ok(mut response) => {
                response.header = Store::header(self.finish());
                Ok(response)
            }
            Err(error) => {
                self.undo();
                Err(error)
            }
        }
    }

    fn execute(&mut self, plan: Plan<'_>) -> Result<TxnResponse, Error> {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in plan.steps {
            let response = match step {
                Step::Txn(nested) => Response::ResponseTxn(self.execute(nested)?),
                Step::Operation(Request::RequestRange(range)) => {
                    Response::ResponseRange(self.store.range_within(range, self.revision())?)
                }
                Step::Operation(Request::RequestPut(put)) => Response::ResponsePut(self.put(put)?),
                Step::Operation(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.delete_range(delete))
                }
                // Became a plan of its own.
                Step::Operation(Request::RequestTxn(_)) => continue,
            };
            responses.push(response_op(response));
        }
        Ok(TxnResponse {
            // A nested one's header is there, but empty.
            header: Some(ResponseHeader::default()),
            succeeded: plan.succeeded,
            responses,
        })
    }
}

/// Whether the lease that a put names exists.
pub(crate) fn check_lease(put: &PutRequest, leases: &Leases) -> Result<(), Error> {
    if put.lease != 0 && leases.get(put.lease).is_none() {
        return Err(Error::LeaseNotFound);
    }
    Ok(())
}

fn response_op(response: Response) -> ResponseOp {
    ResponseOp {
        response: Some(response),
    }
}

/// A number of the wrong kind counts as 0, as does none; an unknown target compares equal, an unknown result holds.
fn matches(compare: &Compare, kv: &KeyValue) -> bool {
    let wanted = compare.target_union.as_ref();
    let number = |actual: i64, wanted: Option<i64>| actual.cmp(&wanted.unwrap_or(0));
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => number(
            kv.version,
            wanted.and_then(|wanted| match wanted {
                TargetUnion::Version(version) => Some(*version),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Create) => number(
            kv.create_revision,
            wanted.and_then(|wanted| match wanted {
                TargetUnion::CreateRevision(revision) => Some(*revision),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Mod) => number(
            kv.mod_revision,
            wanted.and_then(|wanted| match wanted {
                TargetUnion::ModRevision(revision) => Some(*revision),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Lease) => number(
            kv.lease,
            wanted.and_then(|wanted| match wanted {
                TargetUnion::Lease(lease) => Some(*lease),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Value) => match wanted {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.as_ref().cmp(b""),
        },
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
