use super::*;

#[test]
fn endpoints() {
    for (text, shown, authority) in [
        ("a:1", "a:1", "a:1"),
        (" 10.0.0.1:2379\t", "10.0.0.1:2379", "10.0.0.1:2379"),
        (
            "my_host-1.example.:65535",
            "my_host-1.example.:65535",
            "my_host-1.example.:65535",
        ),
        (":2379", "localhost:2379", "localhost:2379"),
        ("[::1]:2379", "[::1]:2379", "[::1]:2379"),
        ("[fe80::1%eth0]:2379", "[fe80::1%eth0]:2379", "[fe80::1]:2379"),
        ("http://a:1", "a:1", "a:1"),
        ("HTTP://a:1/", "a:1", "a:1"),
        ("http://[::1]:1/", "[::1]:1", "[::1]:1"),
        ("https://a:1", "a:1", "a:1"),
        ("unixs:/a/b", "unix:/a/b", "localhost"),
        ("unix:a/b", "unix:a/b", "localhost"),
        ("unix:/a/b", "unix:/a/b", "localhost"),
        ("unix:///a/b", "unix:/a/b", "localhost"),
        ("unix://a:1", "unix:a:1", "localhost"),
    ] {
        let (endpoint, _) = Endpoint::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!(endpoint.to_string(), shown, "{text}");
        assert_eq!(endpoint.authority(), authority, "{text}");
        let again = Endpoint::parse(shown).map(|(endpoint, _)| endpoint);
        assert_eq!(again, Ok(endpoint), "{text}");
    }
}

#[test]
fn schemes_tell_whether_there_is_tls() {
    for (text, expected) in [
        ("a:1", Security::Unsaid),
        ("http://a:1", Security::Plain),
        ("unix:a", Security::Plain),
        ("unix:///a", Security::Plain),
        ("https://a:1", Security::Tls),
        ("HTTPS://a:1/", Security::Tls),
        ("unixs:a", Security::Tls),
        ("unixs:///a", Security::Tls),
    ] {
        let security = Endpoint::parse(text).map(|(_, security)| security);
        assert_eq!(security, Ok(expected), "{text}");
    }
}

#[test]
fn endpoints_that_cannot_be_used() {
    const PORT: &str = "the port must be a number from 1 to 65535";
    const HOST: &str = "the host must be a DNS name, an IPv4 address or an IPv6 address in brackets";
    let long = format!("unix:{}", "x".repeat(108));
    for (text, problem) in [
        ("", "missing port in address"),
        ("a", "missing port in address"),
        ("::1", "too many colons in address"),
        ("[::1]", "missing port in address"),
        ("http://a", "missing port in address"),
        ("http://", "missing port in address"),
        ("a:", PORT),
        ("a:0", PORT),
        ("a:65536", PORT),
        ("a:-1", PORT),
        ("a:http", PORT),
        ("a b:1", HOST),
        ("user@a:1", HOST),
        ("a/b:1", HOST),
        ("[a]b:1", "missing port in address"),
        ("[::1::]:1", HOST),
        ("[::1%e/]:1", HOST),
        ("a%b:1", HOST),
        ("é:1", HOST),
        ("https://a:1/b", "etcd's gRPC API has no path; leave out \"/b\""),
        ("unixs:", "the path of the socket is missing"),
        (
            "http://[::1]:1/path?query#x",
            "etcd's gRPC API has no path; leave out \"/path?query#x\"",
        ),
        (
            "http://a:1?x://y",
            "etcd's gRPC API has no path; leave out \"?x://y\"",
        ),
        ("http://a:1//", "etcd's gRPC API has no path; leave out \"//\""),
        ("http://a:1#x", "etcd's gRPC API has no path; leave out \"#x\""),
        ("http://user@a:1", HOST),
        (
            "tcp://a:1",
            "unknown scheme \"tcp\"; use http://, https://, unix:// or unixs://",
        ),
        ("unix:", "the path of the socket is missing"),
        ("unix://", "the path of the socket is missing"),
        ("unix:@a", "abstract sockets are not supported"),
        ("unix:a\0b", "the path of the socket contains a NUL"),
        (&long, "the path of the socket is longer than 107 bytes"),
    ] {
        assert_eq!(Endpoint::parse(text), Err(problem.to_owned()), "{text}");
    }
    assert!(Endpoint::parse(&long[..long.len() - 1]).is_ok());
}

#[test]
fn listen_addresses() {
    for (text, host, port) in [
        ("127.0.0.1:23790", "127.0.0.1", 23790),
        ("localhost:1", "localhost", 1),
        ("", "", 0),
        (":", "", 0),
        (":2", "", 2),
        ("[]:3", "", 3),
        ("[::]:4", "::", 4),
        ("[::1]:", "::1", 0),
        ("[fe80::1%eth0]:5", "fe80::1%eth0", 5),
        ("a:+7", "a", 7),
        ("a:-0", "a", 0),
        ("a:00080", "a", 80),
    ] {
        let address = ListenAddress::parse(text);
        assert_eq!(
            address,
            Ok(ListenAddress {
                host: host.into(),
                port
            }),
            "{text}"
        );
    }
    assert_eq!(
        ListenAddress::parse("[::1]:4")
            .map(|address| address.to_string())
            .as_deref(),
        Ok("[::1]:4")
    );
    assert_eq!(
        ListenAddress::parse("a:4")
            .map(|address| address.to_string())
            .as_deref(),
        Ok("a:4")
    );
}

/// Next to what `etcd grpc-proxy start` 3.5.30 prints.
#[test]
fn listen_addresses_that_go_refuses() {
    for (text, message) in [
        (
            "http://127.0.0.1:1",
            "address http://127.0.0.1:1: too many colons in address; leave out the scheme",
        ),
        ("127.0.0.1", "address 127.0.0.1: missing port in address"),
        ("[::1", "address [::1: missing ']' in address"),
        ("[::1]", "address [::1]: missing port in address"),
        ("[::1]a", "address [::1]a: missing port in address"),
        ("[::1]x:1", "address [::1]x:1: missing port in address"),
        ("[::1]:1:2", "address [::1]:1:2: too many colons in address"),
        ("::1:2", "address ::1:2: too many colons in address"),
        ("a[b:1", "address a[b:1: unexpected '[' in address"),
        ("ab]:1", "address ab]:1: unexpected ']' in address"),
        ("[a[b]:1", "address [a[b]:1: unexpected '[' in address"),
        ("x]y", "address x]y: missing port in address"),
        ("127.0.0.1:foo", "lookup tcp/foo: unknown port"),
        (
            "127.0.0.1:99999",
            "address 99999: invalid port (it must be from 0 to 65535)",
        ),
        (
            "127.0.0.1:-1",
            "address -1: invalid port (it must be from 0 to 65535)",
        ),
    ] {
        assert_eq!(
            ListenAddress::parse(text),
            Err(format!("listen tcp: {message}")),
            "{text}"
        );
    }
}
