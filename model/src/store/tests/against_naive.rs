//! The store against one that keeps a whole copy of all keys for every revision.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;

use etcd_proxy_proto::etcdserverpb::range_request::SortOrder;
use proptest::collection::vec as list;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Compact(u8),
    Delete(u8, u8),
    Put(u8),
    Range {
        key: u8,
        end: u8,
        back: u8,
        limit: u8,
        descending: bool,
        count_only: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u8..6;
    prop_oneof![
        1 => (0u8..8).prop_map(Op::Compact),
        3 => (key.clone(), 0u8..9).prop_map(|(key, end)| Op::Delete(key, end)),
        6 => key.clone().prop_map(Op::Put),
        4 => (key, 0u8..9, 0u8..10, 0u8..4, any::<bool>(), any::<bool>()).prop_map(
            |(key, end, back, limit, descending, count_only)| Op::Range { key, end, back, limit, descending, count_only }
        ),
    ]
}

fn name(key: u8) -> String {
    String::from(char::from(b'a' + key))
}

/// 0 to 6: that key as an end; 7: none; 8: all keys.
fn end_name(end: u8) -> String {
    match end {
        7 => String::new(),
        8 => "\0".into(),
        end => name(end),
    }
}

fn within(key: &str, from: &str, end: &str) -> bool {
    match end {
        "" => key == from,
        "\0" => key >= from,
        end => key >= from && key < end,
    }
}

#[derive(Default)]
struct Naive {
    /// By revision from 1: all keys with value, creation and version.
    copies: Vec<BTreeMap<String, (i64, i64, i64)>>,
    events: Vec<String>,
    compacted: i64,
}

impl Naive {
    fn revision(&self) -> i64 {
        self.copies.len() as i64
    }

    fn range(&self, key: &str, end: &str, revision: i64) -> Vec<(String, (i64, i64, i64))> {
        let copy = &self.copies[revision as usize - 1];
        let keys = copy.iter().filter(|(name, _)| within(name, key, end));
        keys.map(|(name, kv)| (name.clone(), *kv)).collect()
    }
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let mut world = World::default();
    let mut naive = Naive {
        copies: vec![BTreeMap::new()],
        events: Vec::new(),
        compacted: -1,
    };
    for op in ops {
        match op {
            Op::Put(key) => {
                let (key, revision) = (name(*key), naive.revision() + 1);
                let mut copy = naive.copies[naive.copies.len() - 1].clone();
                let old = copy.get(&key).copied();
                copy.insert(
                    key.clone(),
                    old.map_or((revision, revision, 1), |(_, created, version)| {
                        (revision, created, version + 1)
                    }),
                );
                naive.copies.push(copy);
                naive.events.push(alloc::format!("{key}@{revision}"));
                world.put(&key, "");
            }
            Op::Delete(key, end) => {
                let (key, end) = (name(*key), end_name(*end));
                let gone = naive.range(&key, &end, naive.revision());
                if !gone.is_empty() {
                    let revision = naive.revision() + 1;
                    let mut copy = naive.copies[naive.copies.len() - 1].clone();
                    for (key, _) in &gone {
                        copy.remove(key);
                        naive.events.push(alloc::format!("-{key}@{revision}"));
                    }
                    naive.copies.push(copy);
                }
                prop_assert_eq!(world.delete(&key, &end), gone.len() as i64);
            }
            Op::Compact(back) => {
                let revision = naive.revision() - i64::from(*back);
                let expected = if revision <= naive.compacted {
                    Err(Error::Compacted)
                } else {
                    Ok(())
                };
                prop_assert_eq!(world.store.compact(revision), expected);
                naive.compacted = naive.compacted.max(revision);
            }
            Op::Range {
                key,
                end,
                back,
                limit,
                descending,
                count_only,
            } => {
                let (key, end) = (name(*key), end_name(*end));
                // The first asks for the future.
                let revision = naive.revision() + 1 - i64::from(*back);
                let request = RangeRequest {
                    key: key.clone().into(),
                    range_end: end.clone().into(),
                    revision,
                    limit: i64::from(*limit),
                    sort_order: if *descending {
                        SortOrder::Descend
                    } else {
                        SortOrder::None
                    }
                    .into(),
                    count_only: *count_only,
                    ..Default::default()
                };
                let answer = world.store.range(&request);
                if revision > naive.revision() {
                    prop_assert_eq!(answer, Err(Error::FutureRevision));
                    continue;
                }
                if revision > 0 && revision < naive.compacted {
                    prop_assert_eq!(answer, Err(Error::Compacted));
                    continue;
                }
                let mut expected =
                    naive.range(&key, &end, if revision > 0 { revision } else { naive.revision() });
                let answer = answer.unwrap();
                prop_assert_eq!(answer.count, expected.len() as i64);
                prop_assert_eq!(answer.header.unwrap().revision, naive.revision());
                if *descending {
                    expected.reverse();
                }
                let limit = if *limit == 0 {
                    usize::MAX
                } else {
                    usize::from(*limit)
                };
                prop_assert_eq!(answer.more, !count_only && expected.len() > limit);
                expected.truncate(if *count_only { 0 } else { limit });
                let found: Vec<_> = answer
                    .kvs
                    .iter()
                    .map(|kv| {
                        let key = String::from_utf8(kv.key.to_vec()).unwrap();
                        (key, (kv.mod_revision, kv.create_revision, kv.version))
                    })
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
        prop_assert_eq!(world.store.revision(), naive.revision());
        let from = naive.compacted.max(0);
        let expected: Vec<_> = naive
            .events
            .iter()
            .filter(|event| event.split_once('@').unwrap().1.parse::<i64>().unwrap() >= from)
            .cloned()
            .collect();
        prop_assert_eq!(events(&world.store, 0), expected);
    }
    for revision in naive.compacted.max(1)..=naive.revision() {
        for key in 0..6 {
            let key = name(key);
            let expected = naive.copies[revision as usize - 1]
                .get(&key)
                .map(|(modified, ..)| *modified);
            prop_assert_eq!(
                world.store.at(key.as_bytes(), revision).map(|kv| kv.mod_revision),
                expected
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn answers_the_same(ops in list(op(), 1..60)) {
        run(&ops)?;
    }
}
