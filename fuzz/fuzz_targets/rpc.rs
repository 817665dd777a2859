//! `Rpc::of_path`: any path, and what must hold for whatever it answers.
#![no_main]

use arbitrary::Arbitrary;
use etcd_proxy_core::rpc::{Kind, Member, Rpc, Shape};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input {
    Path(String),
    /// A known one's, or parts of two, with something behind.
    Like {
        service: u8,
        name: u8,
        tail: String,
    },
}

fuzz_target!(|input: Input| {
    let any = |at: u8| Rpc::ALL[usize::from(at) % Rpc::ALL.len()];
    let path = match input {
        Input::Path(path) => path,
        Input::Like { service, name, tail } => {
            format!("/{}/{}{tail}", any(service).service(), any(name).name())
        }
    };
    let rpc = Rpc::of_path(&path);
    assert_eq!(rpc.is_known(), Rpc::ALL.contains(&rpc), "{path}");
    assert_eq!(
        rpc.is_known(),
        Rpc::ALL.iter().any(|rpc| rpc.path() == path),
        "{path}"
    );
    if rpc.is_known() {
        assert_eq!(rpc.path(), path);
        return;
    }
    assert_eq!(
        (rpc.shape(), rpc.kind()),
        (Shape::Stream, Kind::Unknown),
        "{path}"
    );
    assert!(!rpc.is_repeatable(), "{path}");
    let is_maintenance = path.starts_with("/etcdserverpb.Maintenance/");
    assert_eq!(rpc.member() == Member::Same, is_maintenance, "{path}");
});
