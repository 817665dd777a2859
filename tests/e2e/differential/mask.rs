//! What is not compared, and why.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb as pb;
use prost::Message;

/// Makes a message equal to its twin from the other cluster.
pub(crate) type Mask = fn(&Bytes) -> Bytes;

/// Everything is compared.
pub(crate) fn nothing(message: &Bytes) -> Bytes {
    message.clone()
}

/// Decodes, changes, encodes. A message that does not decode stays as it is and is compared so.
fn edited<M: Message + Default>(message: &Bytes, edit: impl FnOnce(&mut M)) -> Bytes {
    match M::decode(message.clone()) {
        Ok(mut decoded) => {
            edit(&mut decoded);
            decoded.encode_to_vec().into()
        }
        Err(_) => message.clone(),
    }
}

/// A lease id that the server made up out of the time. That there is one is still compared.
pub(crate) fn granted_id(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::LeaseGrantResponse| {
        answer.id = answer.id.signum()
    })
}

/// Seconds left of a lease depend on when they are asked for; compared is whether any are left.
/// The keys of a lease come in no order.
pub(crate) fn remaining_ttl(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::LeaseTimeToLiveResponse| {
        answer.ttl = answer.ttl.signum();
        answer.keys.sort_unstable();
    })
}

/// A lease list comes in no order, and other leases than those with known ids come and go.
pub(crate) fn leases_among(message: &Bytes, known: &[i64]) -> Bytes {
    edited(message, |answer: &mut pb::LeaseLeasesResponse| {
        answer.leases.retain(|lease| known.contains(&lease.id));
        answer.leases.sort_unstable_by_key(|lease| lease.id);
    })
}

/// Tokens are random.
pub(crate) fn token(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::AuthenticateResponse| {
        assert!(!answer.token.is_empty(), "an authenticated user gets a token");
        answer.token = "T".to_owned();
    })
}

/// How far raft got and how large the file is depends on retries while the cluster started.
pub(crate) fn progress(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::StatusResponse| {
        assert!(answer.raft_index > 0 && answer.db_size > 0, "{answer:?}");
        answer.raft_index = 0;
        answer.raft_applied_index = 0;
        answer.db_size = 0;
        answer.db_size_in_use = 0;
    })
}

/// The hash over the whole file covers raft's progress.
pub(crate) fn file_hash(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::HashResponse| {
        answer.hash = answer.hash.min(1)
    })
}

/// Ports differ.
pub(crate) fn client_urls(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::MemberListResponse| {
        for member in &mut answer.members {
            assert!(member.client_ur_ls.len() <= 1, "{member:?}");
            member.client_ur_ls.clear();
        }
    })
}

/// Alarms come in no order.
pub(crate) fn alarm_order(message: &Bytes) -> Bytes {
    edited(message, |answer: &mut pb::AlarmResponse| {
        answer
            .alarms
            .sort_unstable_by_key(|alarm| (alarm.member_id, alarm.alarm));
    })
}

/// What is in a chunk of a snapshot; its size is compared.
pub(crate) fn blob(message: &Bytes) -> Bytes {
    edited(message, |chunk: &mut pb::SnapshotResponse| {
        chunk.blob = vec![0; chunk.blob.len()].into();
    })
}
