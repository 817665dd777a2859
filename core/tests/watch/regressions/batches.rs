//! How events are put together into messages: as a server does it.

use etcd_proxy_core::watch::{Config, Event};
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

use super::{SECOND, put, revisions, watch, world};
use crate::client::Client;
use crate::world::World;

/// A world with a client that watches `k` and is in step, and so many events that it has seen. Nothing may wait for a client
/// before what follows waits for it to leave.
fn watched(config: Config, count: usize) -> World {
    let config = Config {
        unsent_revisions_max: 0,
        ..config
    };
    let mut world = World::new(1, config, 1);
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    for _ in 0..count {
        put(&mut world, "k");
        world.settle();
    }
    world
}

/// What a client was sent of events, in their messages.
fn messages(world: &World, client: usize) -> Vec<&WatchResponse> {
    let frames = world.clients[client].frames.iter();
    frames.filter(|frame| !frame.events.is_empty()).collect()
}

/// How many events are in each message.
fn counts(messages: &[&WatchResponse]) -> Vec<usize> {
    messages.iter().map(|message| message.events.len()).collect()
}

fn headers(messages: &[&WatchResponse]) -> Vec<i64> {
    messages.iter().map(|message| header(message)).collect()
}

fn header(message: &WatchResponse) -> i64 {
    message.header.map_or(0, |header| header.revision)
}

/// Who keeps up gets each event at once, and who comes later all there is in as few messages as from a server: of a
/// thousand revisions each, and the header of each is good to go on from.
#[test]
fn history_comes_in_few_messages() {
    let mut world = watched(Config::default(), 2500);
    assert_eq!(messages(&world, 0).len(), 2500);
    let late = world.open(None, false);
    world.create(late, watch("k", "", 2));
    world.run(SECOND);
    assert_eq!(counts(&messages(&world, late)), [1000, 1000, 500]);
    assert_eq!(revisions(&world, late), (2..=2501).collect::<Vec<_>>());
    assert_eq!(headers(&messages(&world, late)), [1001, 2001, 2501]);
    assert_eq!(world.hub.stats().catch_ups, 0);
}

/// A watcher of some of the keys of a wide one gets its events together, however many others are between them.
#[test]
fn history_of_few_keys_comes_in_one_message() {
    let mut world = world();
    let wide = world.open(None, false);
    world.create(wide, watch("a", "z", 0));
    world.settle();
    for number in 0..1500 {
        put(&mut world, if number % 100 == 0 { "k" } else { "other" });
        world.settle();
    }
    let late = world.open(None, false);
    world.create(late, watch("k", "", 2));
    world.run(SECOND);
    let found = messages(&world, late);
    assert_eq!((found.len(), found[0].events.len()), (1, 15));
    assert_eq!(header(found[0]), 1501, "nothing more is to come before that");
}

/// What comes while a client hasn't taken what it was sent goes out in one message when it has, and those who take what
/// they get don't wait for it.
#[test]
fn what_waits_goes_out_together() {
    let mut world = watched(Config::default(), 0);
    let slow = world.open(None, false);
    for _ in 0..3 {
        world.create(slow, watch("k", "", 0));
    }
    world.settle();
    world.clients[slow].stopped = true;
    for number in 1..=100 {
        put(&mut world, "k");
        world.settle();
        assert_eq!(
            messages(&world, 0).len(),
            number,
            "who keeps up waits for nothing"
        );
    }
    assert_eq!(messages(&world, slow).len(), 3, "one for each watcher");
    world.clients[slow].stopped = false;
    world.settle();
    assert_eq!(counts(&messages(&world, slow)), [1, 1, 1, 99, 99, 99]);
    assert_eq!(world.hub.stats().behind, 0);
    put(&mut world, "k");
    world.settle();
    assert_eq!(messages(&world, slow).len(), 9, "in step again");
}

/// A few messages go out as they come, though those before haven't left.
#[test]
fn a_little_waits_for_nothing() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    world.clients[client].stopped = true;
    for _ in 0..1000 {
        put(&mut world, "k");
        world.settle();
    }
    assert_eq!(messages(&world, client).len(), 8);
    world.clients[client].stopped = false;
    world.settle();
    let found = messages(&world, client);
    assert_eq!((found.len(), found[8].events.len()), (9, 992));
}

/// A message that is put together stays well below what clients take without being told to.
#[test]
fn messages_are_bounded() {
    let mut world = watched(Config::default(), 0);
    let value = "x".repeat(300_000);
    for _ in 0..10 {
        world.store.write(&[("k", Some(&value))]);
        world.settle();
    }
    let late = world.open(None, false);
    world.create(late, watch("k", "", 2));
    world.run(SECOND);
    assert_eq!(counts(&messages(&world, late)), [6, 4]);
    assert_eq!(headers(&messages(&world, late)), [7, 11]);
}

/// A revision stays in one message, also where a thousand are full.
#[test]
fn revisions_stay_whole() {
    let config = Config {
        batch_bytes_max: 1000,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let early = world.open(None, false);
    world.create(early, watch("a", "z", 0));
    world.settle();
    let value = "x".repeat(90);
    for _ in 0..20 {
        world
            .store
            .write(&[("a", Some(&value)), ("b", Some(&value)), ("c", Some(&value))]);
        world.settle();
    }
    let late = world.open(None, false);
    world.create(late, watch("a", "z", 2));
    world.run(SECOND);
    // The world's client looks whether they are whole.
    let found = messages(&world, late);
    assert!(found.len() > 5 && found.iter().all(|message| message.events.len() <= 9));
    assert_eq!(revisions(&world, late).len(), 60);
}

/// All who have to be sent the same are sent the same buffer.
#[test]
fn merges_are_shared() {
    let mut world = watched(Config::default(), 0);
    let clients: Vec<usize> = (0..3).map(|_| world.open(None, false)).collect();
    for client in &clients {
        world.create(*client, watch("k", "", 0));
    }
    world.settle();
    for client in &clients {
        world.clients[*client].stopped = true;
    }
    for _ in 0..200 {
        put(&mut world, "k");
        world.settle();
    }
    for client in &clients {
        assert!(world.take(*client));
    }
    world.finish_work();
    let tails = clients.iter().map(|client| {
        let frame = world.clients[*client].outbox.back().expect("the rest");
        (frame.tail.as_ptr(), frame.tail.len())
    });
    let tails: Vec<_> = tails.collect();
    assert!(tails[0].1 > 200 * 10);
    assert!(tails.iter().all(|tail| *tail == tails[0]), "{tails:?}");
}

/// Who takes nothing for long needs no catch-up for what its outbox has room for.
#[test]
fn a_stalled_client_needs_no_catch_up() {
    let config = Config {
        outbox_bytes_max: 100_000,
        history_bytes_max: 20_000,
        ..Config::default()
    };
    let mut world = watched(config, 0);
    let slow = world.open(None, false);
    world.create(slow, watch("k", "", 0));
    world.settle();
    world.clients[slow].stopped = true;
    for _ in 0..500 {
        put(&mut world, "k");
        world.settle();
    }
    let waiting = world.clients[slow].outbox_bytes();
    assert!((10_000..100_000).contains(&waiting), "{waiting} bytes wait");
    world.clients[slow].stopped = false;
    world.settle();
    assert_eq!(revisions(&world, slow).len(), 500);
    assert!(messages(&world, slow).len() < 50);
    assert_eq!(world.hub.stats().catch_ups, 0);
}

/// A client whose watchers always have something waiting is listened to all the same.
#[test]
fn requests_are_read_under_load() {
    let config = Config {
        outbox_bytes_max: 500,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let client = world.open(None, false);
    for _ in 0..20 {
        world.create(client, watch("k", "", 0));
        world.settle();
    }
    world.clients[client].stopped = true;
    put(&mut world, "k");
    world.settle();
    world.send(client, Client::ask_progress());
    assert!(world.clients[client].paused);
    for _ in 0..200 {
        put(&mut world, "k");
        world.settle();
        world.take(client);
        world.settle();
        if !world.clients[client].paused {
            return;
        }
    }
    panic!("it is paused for ever");
}

/// A client that takes fragments gets what is large in pieces that a server would make: each below the limit, and all
/// but the last say that more comes.
#[test]
fn a_merge_comes_in_fragments() {
    let config = Config {
        fragment_bytes: 1000,
        batch_bytes_max: 1000,
        ..Config::default()
    };
    let mut world = watched(config, 0);
    let value = "x".repeat(400);
    for _ in 0..10 {
        world.store.write(&[("k", Some(&value))]);
        world.settle();
    }
    let late = world.open(None, false);
    let request = WatchCreateRequest {
        fragment: true,
        ..watch("k", "", 2)
    };
    world.create(late, request);
    world.run(SECOND);
    let found = messages(&world, late);
    let flags: Vec<bool> = found.iter().map(|message| message.fragment).collect();
    assert_eq!(flags, [true, true, true, true, false]);
    for message in found {
        assert!(prost::Message::encoded_len(message) < 1000);
        assert_eq!(header(message), 11, "one message, one header");
    }
    assert_eq!(revisions(&world, late), (2..=11).collect::<Vec<_>>());
}

/// A server looks for a previous pair in the revision before its event: where that was compacted there is none.
#[test]
fn previous_pairs_that_were_compacted() {
    let mut world = world();
    let early = world.open(None, false);
    let with_prev = |start| WatchCreateRequest {
        prev_kv: true,
        ..watch("k", "", start)
    };
    world.create(early, with_prev(0));
    world.settle();
    for _ in 0..5 {
        put(&mut world, "k");
        world.settle();
    }
    let compacted = 4;
    world.store.compacted = compacted;
    world.tell(Event::Compacted(compacted));
    let late = world.open(None, false);
    world.create(late, with_prev(compacted));
    world.run(SECOND);
    let messages = messages(&world, late);
    let events = messages.iter().flat_map(|message| &message.events);
    let has_prev: Vec<bool> = events.map(|event| event.prev_kv.is_some()).collect();
    assert_eq!(has_prev, [false, true, true]);
    assert_eq!(world.hub.stats().catch_ups, 0);
}
