//! Compiles the `.proto` files of this crate to Rust. The compiler is a Rust library, so no
//! `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");

    let mut descriptors = protox::compile(FILES, [ROOT])?;

    tonic_prost_build::configure()
        .bytes(".")
        // There are no hash maps in no_std.
        .btree_map(".")
        .build_transport(false)
        .client_mod_attribute(".", STUBS)
        .server_mod_attribute(".", STUBS)
        .compile_fds(descriptors.clone())?;

    // Comments are for readers of the source, and half of the bytes.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

/// What the modules with client and server stubs are compiled under.
const STUBS: &str = r#"#[cfg(feature = "stubs")]"#;

/// Where imports are looked up.
const ROOT: &str = "proto";

const FILES: [&str; 12] = [
    "authpb/auth.proto",
    "etcdserverpb/auth.proto",
    "etcdserverpb/cluster.proto",
    "etcdserverpb/header.proto",
    "etcdserverpb/kv.proto",
    "etcdserverpb/lease.proto",
    "etcdserverpb/maintenance.proto",
    "etcdserverpb/watch.proto",
    "grpc/health/v1/health.proto",
    "mvccpb/kv.proto",
    "v3electionpb/v3election.proto",
    "v3lockpb/v3lock.proto",
];
