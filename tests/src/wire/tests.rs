//! Against an h2 server in the same process, scripted per call.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Connection, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;

type Server = Connection<TcpStream, Bytes>;

/// Runs `script` on the first connection and gives the client's side of it.
async fn serve<F, D>(script: F) -> Wire
where
    F: FnOnce(Server) -> D + Send + 'static,
    D: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        script(h2::server::handshake(socket).await.unwrap()).await;
    });
    Wire::connect(&address).await.unwrap()
}

/// Answers every call of the connection with `answer`.
async fn serve_calls<F, D>(answer: F) -> Wire
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    serve(|mut server| async move {
        while let Some(Ok((request, respond))) = server.accept().await {
            tokio::spawn(answer(request, respond));
        }
    })
    .await
}

fn headers(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    respond.send_response(response, false).unwrap()
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers
}

async fn body(request: Request<RecvStream>) -> Vec<u8> {
    let mut body = request.into_body();
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    all
}

#[tokio::test]
async fn messages_are_framed_and_cut_anywhere() {
    let wire = serve_calls(|request, mut respond| async move {
        assert_eq!(request.uri().path(), "/p.S/M");
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["token"], "secret");
        let mut stream = headers(&mut respond);
        for byte in body(request).await {
            stream.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
        }
        stream.send_trailers(status("0")).unwrap();
    })
    .await;
    let messages = [
        Bytes::from_static(b"one"),
        Bytes::new(),
        Bytes::from_static(b"three"),
    ];
    let reply = wire.call("/p.S/M", &[("token", "secret")], &messages).await;
    let expected = Reply {
        http_status: 200,
        headers: vec![("content-type".into(), b"application/grpc".to_vec())],
        messages: messages.to_vec(),
        trailers: Some(vec![("grpc-status".into(), b"0".to_vec())]),
        ..Reply::default()
    };
    assert_eq!(reply, expected);
    assert!(reply.is_ok());
}

#[tokio::test]
async fn messages_larger_than_any_window_go_both_ways() {
    let wire = serve_calls(|request, mut respond| async move {
        let mut stream = headers(&mut respond);
        let mut body = request.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            stream.send_data(chunk, false).unwrap();
        }
        stream.send_trailers(status("0")).unwrap();
    })
    .await;
    let message: Bytes = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    let reply = wire
        .call("/p.S/M", &[], &[message.clone(), message.clone()])
        .await;
    assert!(reply.is_ok(), "{:?} {:?}", reply.reset, reply.error);
    assert!(reply.messages == [message.clone(), message]);
}

#[tokio::test]
async fn a_trailers_only_answer_ends_the_call_before_its_messages() {
    let wire = serve_calls(|_, mut respond| async move {
        let response = Response::builder()
            .header("grpc-status", "3")
            .header("grpc-message", "50%25")
            .header("grpc-status-details-bin", "CAM")
            .body(())
            .unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    // More than the server ever takes in.
    let reply = wire.call("/p.S/M", &[], &[Bytes::from(vec![0; 1 << 20])]).await;
    assert_eq!(reply.trailers, None);
    assert_eq!((reply.reset, reply.error.as_deref()), (None, None));
    assert_eq!(reply.code(), Some(3));
    assert_eq!(reply.message().as_deref(), Some("50%"));
    assert_eq!(reply.details().as_deref(), Some(&[8, 3][..]));
    assert!(!reply.is_ok());
}

#[tokio::test]
async fn resets_are_told_with_their_code() {
    let wire = serve_calls(|request, mut respond| async move {
        if request.uri().path() == "/p.S/Late" {
            let mut stream = headers(&mut respond);
            stream.send_data(frame(b"first"), false).unwrap();
            // The rest waits for the client to have read the first message.
            body(request).await;
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        } else {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let reply = wire.call("/p.S/Early", &[], &[Bytes::new()]).await;
    assert_eq!(
        reply,
        Reply {
            reset: Some(7),
            ..Reply::default()
        }
    );

    let mut call = wire.open("/p.S/Late", &[]).await.unwrap();
    assert_eq!(call.headers().await.unwrap()["content-type"], "application/grpc");
    assert_eq!(call.message().await.as_deref(), Some(&b"first"[..]));
    call.half_close().unwrap();
    assert_eq!(call.message().await, None);
    let reply = call.finish().await;
    assert_eq!(
        (reply.http_status, reply.reset, reply.code()),
        (200, Some(11), None)
    );
}

#[tokio::test]
async fn a_local_reset_reaches_the_server_and_is_not_taken_for_a_remote_one() {
    let (seen, code) = tokio::sync::oneshot::channel();
    let seen = std::sync::Mutex::new(Some(seen));
    let wire = serve_calls(move |_, mut respond| {
        let seen = seen.lock().unwrap().take();
        async move {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            seen.unwrap().send(reason).unwrap();
        }
    })
    .await;
    let mut call = wire.open("/p.S/M", &[]).await.unwrap();
    call.reset(Reason::CANCEL);
    assert_eq!(code.await.unwrap(), Reason::CANCEL);
    let reply = call.finish().await;
    assert_eq!(reply.reset, None);
    assert!(reply.error.is_some());
}

#[tokio::test]
async fn a_message_cut_by_a_clean_end_is_an_error() {
    let wire = serve_calls(|_, mut respond| async move {
        let mut stream = headers(&mut respond);
        stream
            .send_data(Bytes::from_static(&[1, 0, 0, 0, 1, b'x', 0, 0]), false)
            .unwrap();
        stream.send_trailers(status("0")).unwrap();
    })
    .await;
    let reply = wire.call("/p.S/M", &[], &[]).await;
    assert_eq!((reply.messages.len(), reply.compressed), (1, 1));
    assert_eq!(reply.code(), Some(0));
    assert!(!reply.is_ok());
}

#[tokio::test]
async fn unary_wants_one_whole_message() {
    let wire = serve_calls(|request, mut respond| async move {
        let data: &[u8] = match request.uri().path() {
            "/p.S/One" => &[0, 0, 0, 0, 2, 8, 7],
            "/p.S/Two" => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "/p.S/Garbage" => &[0, 0, 0, 0, 1, 8],
            _ => &[],
        };
        let mut stream = headers(&mut respond);
        stream.send_data(Bytes::from_static(data), false).unwrap();
        stream.send_trailers(status("0")).unwrap();
    })
    .await;
    // prost's own implementation of a message with one field 1 of type int64.
    assert_eq!(wire.unary::<(), i64>("/p.S/One", &[], &()).await, Ok(7));
    for (path, exchanged) in [("/p.S/Two", 2), ("/p.S/Garbage", 1), ("/p.S/None", 0)] {
        let reply = wire.unary::<(), i64>(path, &[], &()).await.unwrap_err();
        assert!(reply.error.is_some(), "{path}");
        assert_eq!(reply.code(), Some(0), "{path}");
        assert_eq!(reply.messages.len(), exchanged, "{path}");
    }

    let exchange = async |path| {
        let template = wire.template(path, &[]).unwrap();
        wire.exchange(&template, frame(b"")).await
    };
    assert_eq!(exchange("/p.S/One").await.as_deref(), Ok(&[8, 7][..]));
    for (path, exchanged) in [("/p.S/Two", 2), ("/p.S/None", 0)] {
        let reply = exchange(path).await.unwrap_err();
        assert!(reply.error.is_some(), "{path}");
        assert_eq!(reply.messages.len(), exchanged, "{path}");
    }
}

#[tokio::test]
async fn metadata_that_is_not_http_is_refused() {
    let wire = serve(|mut server| async move { while server.accept().await.is_some() {} }).await;
    for (path, name, value) in [("/p", "no spaces", ""), ("/p", "ok", "a\nb"), ("p q", "ok", "")] {
        let error = wire.open(path, &[(name, value)]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(wire.call(path, &[(name, value)], &[]).await.error.is_some());
    }
}

#[tokio::test]
async fn goaway_is_told_with_its_code() {
    let wire = serve(|mut server| async move {
        server
            .accept()
            .await
            .unwrap()
            .unwrap()
            .1
            .send_reset(Reason::CANCEL);
        server.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        while server.accept().await.is_some() {}
    })
    .await;
    wire.call("/p.S/M", &[], &[]).await;
    let end = wire.closed().await;
    assert_eq!(
        end,
        ConnectionEnd {
            goaway: Some((11, Vec::new())),
            error: None
        }
    );
    let reply = wire.call("/p.S/M", &[], &[]).await;
    assert_eq!(reply.http_status, 0);
    assert!(reply.error.is_some());
}

/// A server that writes just these bytes after its SETTINGS and closes.
async fn serve_bytes(bytes: &'static [u8]) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        // Reading to the end keeps the kernel from answering the client's frames with RST.
        tokio::io::copy(&mut socket, &mut tokio::io::sink())
            .await
            .unwrap();
    });
    Wire::connect(&address).await.unwrap()
}

#[tokio::test]
async fn goaway_is_told_with_its_debug_data() {
    let wire = serve_bytes(b"\0\0\x16\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo_many_pings").await;
    let goaway = Some((11, b"too_many_pings".to_vec()));
    assert_eq!(wire.closed().await, ConnectionEnd { goaway, error: None });

    let wire = serve_bytes(b"\0\0\x0b\x07\0\0\0\0\0\0\0\0\0\0\0\0\0bye").await;
    let goaway = Some((0, b"bye".to_vec()));
    assert_eq!(wire.closed().await, ConnectionEnd { goaway, error: None });
}

#[tokio::test]
async fn an_end_without_goaway_is_told() {
    let wire = serve_bytes(b"").await;
    assert_eq!(wire.closed().await.goaway, None);
    // A SETTINGS frame on a stream of its own is a protocol error.
    let wire = serve_bytes(&[0, 0, 0, 4, 0, 0, 0, 0, 1]).await;
    let end = wire.closed().await;
    assert_eq!(end.goaway, None);
    assert!(end.error.is_some());
}

#[tokio::test]
async fn the_connection_closes_with_its_last_handle_or_when_killed() {
    let connect = async || {
        let (sender, ended) = tokio::sync::oneshot::channel();
        let wire = serve(|mut server| async move {
            let mut calls = Vec::new();
            // With or without an error, depending on what was still on its way: but it ends.
            while let Some(Ok(call)) = server.accept().await {
                calls.push(call);
            }
            sender.send(()).unwrap();
        })
        .await;
        (wire, tokio::time::timeout(DEADLINE, ended))
    };
    let (wire, ended) = connect().await;
    let clone = wire.clone();
    let call = wire.open("/p.S/M", &[]).await.unwrap();
    drop((wire, clone, call));
    ended.await.expect("closes with the last handle").unwrap();

    let (wire, ended) = connect().await;
    let call = wire.open("/p.S/M", &[]).await.unwrap();
    wire.kill();
    assert!(wire.closed().await.error.is_some());
    assert!(call.finish().await.error.is_some());
    ended.await.expect("closes when killed").unwrap();
}

const DEADLINE: Duration = Duration::from_secs(30);
