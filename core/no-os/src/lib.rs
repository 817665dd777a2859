//! A library without a standard library that links the core and the model.
//!
//! A program has one panic handler, and std brings one. So if one of them, or anything they depend on,
//! links std on any target, this does not compile: `found duplicate lang item panic_impl`. A
//! `#![no_std]` in the core alone would not show that of its dependencies.

#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr;

use etcd_proxy_core as _;
use etcd_proxy_model as _;
use etcd_proxy_proto as _;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The core uses `alloc`, so there must be an allocator; nothing here ever runs.
#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

struct NoMemory;

// SAFETY: an allocator may fail every request, by a null pointer. As it hands nothing out, nothing
// can be given back to it.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
