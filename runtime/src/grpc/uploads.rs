//! What a client connection may make the proxy hold of messages that aren't complete.
//!
//! A stream's receive window is given back as its message is read, so without a bound each of a thousand streams could
//! have nearly a whole message here. Only some messages of a connection may be large at a time; the others wait, each with a
//! small beginning, and take what the connection's window allows.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages are large from so many bytes on.
const LARGE_BYTES: usize = 16 * 1024;

/// Large messages of a connection that are read at a time.
const LARGE_MAX: usize = 8;

/// The places for large messages of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Uploads(Arc<Semaphore>);

impl Default for Uploads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_MAX)))
    }
}

impl Uploads {
    /// For the messages of one stream.
    pub(crate) fn upload(&self) -> Upload {
        Upload {
            places: self.0.clone(),
            place: None,
            waiting: None,
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The message that a stream is at.
pub(crate) struct Upload {
    places: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
}

impl Upload {
    /// Ready when more may be read of a message of which so many bytes are held.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, held: usize) -> Poll<()> {
        if held < LARGE_BYTES {
            self.place = None;
            self.waiting = None;
            return Poll::Ready(());
        }
        if self.place.is_none() {
            let places = &self.places;
            let waiting = self.waiting.get_or_insert_with(|| {
                let places = places.clone();
                Box::pin(async move { places.acquire_owned().await.ok() })
            });
            // It is never closed.
            self.place = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use core::task::Waker;

    use super::*;

    #[test]
    fn large_messages_take_turns() {
        let mut cx = Context::from_waker(Waker::noop());
        let uploads = Uploads::default();
        let mut first: Vec<Upload> = (0..LARGE_MAX).map(|_| uploads.upload()).collect();
        for upload in &mut first {
            assert!(upload.poll(&mut cx, LARGE_BYTES).is_ready());
        }
        let mut another = uploads.upload();
        assert!(another.poll(&mut cx, LARGE_BYTES - 1).is_ready(), "it is small");
        assert!(another.poll(&mut cx, LARGE_BYTES).is_pending());
        assert!(
            first[3].poll(&mut cx, 2 * LARGE_BYTES).is_ready(),
            "it has its place"
        );
        // Its next message is small.
        assert!(first[3].poll(&mut cx, 0).is_ready());
        assert!(another.poll(&mut cx, LARGE_BYTES).is_ready());
        assert!(first[3].poll(&mut cx, LARGE_BYTES).is_pending());
        drop(another);
        assert!(first[3].poll(&mut cx, LARGE_BYTES).is_ready());
    }
}
