//! Which process a TCP connection on this machine belongs to.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// The position in `pids` of the process that owns the IPv4 socket bound to `local`.
///
/// The kernel lists a socket's inode in `/proc/net/tcp`, and a process's sockets as links in
/// `/proc/PID/fd`. Both are readable for processes of the same user, so no privilege is needed.
#[must_use]
pub fn owner_of_local_port(local: SocketAddr, pids: &[u32]) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let link = format!("socket:[{}]", inode(&table, local)?);
    pids.iter().position(|pid| *pid != 0 && has_link(*pid, &link))
}

/// The inode of the connected socket with this local address in the text of `/proc/net/tcp`.
fn inode(table: &str, local: SocketAddr) -> Option<u64> {
    let IpAddr::V4(ip) = local.ip() else {
        return None;
    };
    // The address is printed as the number that its bytes make in memory on a little-endian machine.
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), local.port());
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let address = fields.nth(1)?;
        // sl local remote state tx:rx tr:when retransmits uid timeout inode
        let inode = fields.nth(7)?.parse().ok()?;
        (address == wanted && inode != 0).then_some(inode)
    })
}

fn has_link(pid: u32, link: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|path| path.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn finds_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let local = client.local_addr().expect("address");
        assert_eq!(owner_of_local_port(local, &[0, std::process::id()]), Some(1));
        assert_eq!(owner_of_local_port(local, &[0, 1_000_000_000]), None);
    }
}
