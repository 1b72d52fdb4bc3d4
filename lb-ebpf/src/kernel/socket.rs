//! The hooks of a cgroup, where system calls of its processes name an address or are told one.

use super::maps::{BACKEND_STATS, NODE_PORTS, REASONS, SERVICE_STATS, SOCKETS, TELLINGS};
use super::tables::{KernelTables, insert_error};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use lb_common::{Event, Peer, Reason, ServiceKey, SocketKey, Telling};
use lb_ebpf::env::{Clock, Step};
use lb_ebpf::socket::{self, Socket, SocketTables};
use lb_ebpf::{InsertError, Tables};

/// What a program of these types returns: the call goes on, or fails.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// State of a UDP socket with a peer, too (`__ip4_datagram_connect` in `net/ipv4/datagram.c`).
const TCP_ESTABLISHED: u32 = 1;

struct Call<'a, const VERSION: u8>(&'a SockAddrContext);

impl<const VERSION: u8> Call<'_, VERSION> {
    #[inline(always)]
    fn context(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
    }
}

impl<const VERSION: u8> Clock for Call<'_, VERSION> {
    #[inline(always)]
    fn tick(&self) -> u32 {
        super::tick()
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, times: u32, body: &mut S) {
        super::repeat(times, body);
    }
}

impl<const VERSION: u8> Socket for Call<'_, VERSION> {
    const VERSION: u8 = VERSION;

    #[inline(always)]
    fn address(&self) -> [u8; 16] {
        let context = self.context();
        let mut words = [0u32; 4];
        // SAFETY: fields of the context that the verifier lets a program of this family read, each as a whole.
        unsafe {
            if VERSION == 4 {
                words[0] = (&raw const (*context).user_ip4).read_volatile();
            } else {
                for (index, word) in words.iter_mut().enumerate() {
                    *word = (&raw const (*context).user_ip6[index]).read_volatile();
                }
            }
        }
        // In network order already: bytes as they lie in memory.
        // SAFETY: both are sixteen bytes for which every bit pattern is valid.
        unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
    }

    #[inline(always)]
    fn port(&self) -> [u8; 2] {
        // SAFETY: as above; the port is in network order, in the first two bytes.
        (unsafe { (&raw const (*self.context()).user_port).read_volatile() } as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn set(&mut self, address: &[u8; 16], port: [u8; 2]) {
        let context = self.context();
        let word = |index: usize| {
            let at = index * 4;
            u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
        };
        // SAFETY: fields of the context that the verifier lets a program of this family write, each as a whole.
        unsafe {
            if VERSION == 4 {
                (&raw mut (*context).user_ip4).write_volatile(word(0));
            } else {
                for index in 0..4 {
                    (&raw mut (*context).user_ip6[index]).write_volatile(word(index));
                }
            }
            (&raw mut (*context).user_port).write_volatile(u32::from(u16::from_ne_bytes(port)));
        }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: a field of the context, which the verifier lets us read.
        let protocol = unsafe { (&raw const (*self.context()).protocol).read_volatile() };
        // Numbers past 255 (MPTCP) are none of an IP header, and zero is none of ours.
        u8::try_from(protocol).unwrap_or(0)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context of this program.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn is_connected(&self) -> bool {
        // SAFETY: fields of the context and of its socket, which the verifier lets us read.
        unsafe {
            let socket = (&raw const (*self.context()).__bindgen_anon_1.sk).read_volatile();
            (&raw const (*socket).state).read_volatile() == TCP_ESTABLISHED
        }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: the context of this program.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }
}

/// Adds one to a counter of this CPU. In one instruction: a packet that comes in meanwhile interrupts a system call, and
/// counts too.
#[inline(always)]
fn increment(counter: *mut u64) {
    // `core` has no such operation for a target without compare-and-exchange, which the oldest BPF is.
    // SAFETY: the kernel keeps the element's memory while the program runs, aligned to eight bytes.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1u64, options(nostack)) };
}

impl SocketTables for KernelTables<false> {
    #[inline(always)]
    fn asked(&self, key: &SocketKey) -> Option<&Peer> {
        // SAFETY: the element stays mapped while the program runs, and has no pointers. Under pressure it may be given to
        // another socket at this moment; then the process is shown somebody else's Service once.
        unsafe { SOCKETS.get(key) }
    }

    #[inline(always)]
    fn remember(&self, key: &SocketKey, asked: &Peer) -> Result<(), InsertError> {
        SOCKETS.insert(key, asked, u64::from(BPF_ANY)).map_err(insert_error)
    }

    #[inline(always)]
    fn forget(&self, key: &SocketKey) {
        // An entry that is not there needs no deleting.
        let _ = SOCKETS.remove(key);
    }

    #[inline(always)]
    fn cluster_address(&self, node_port: &ServiceKey) -> Option<&Peer> {
        // SAFETY: the daemon's writes to a NO_PREALLOC hash replace whole elements under RCU.
        unsafe { NODE_PORTS.get(node_port) }
    }

    #[inline(always)]
    fn count_call(&self, reason: Reason) {
        if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: the address of a field, nothing is read.
            increment(unsafe { &raw mut (*count).packets });
        }
    }

    #[inline(always)]
    fn tell_call(&self, event: &mut Event, now: u32) {
        let Some(telling) = TELLINGS.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: the kernel keeps the element's memory while the program runs. A packet that interrupts may renew the share,
        // which is then a little larger; what is counted for good is counted in one instruction.
        unsafe {
            if !(*telling).has_share(Telling::LOSSES, now) {
                return increment(&raw mut (*telling).skipped[Telling::LOSSES]);
            }
            (*telling).told[Telling::LOSSES] += 1;
        }
        if !self.tell(event) {
            // SAFETY: the address of a field, nothing is read.
            increment(unsafe { &raw mut (*telling).lost[Telling::LOSSES] });
        }
    }

    #[inline(always)]
    fn count_socket(&self, service: u32, backend: u32) {
        if let Some(traffic) = SERVICE_STATS.get_ptr_mut(service) {
            // SAFETY: the address of a field, nothing is read.
            increment(unsafe { &raw mut (*traffic).connections });
        }
        if let Some(traffic) = BACKEND_STATS.get_ptr_mut(backend) {
            // SAFETY: the address of a field, nothing is read.
            increment(unsafe { &raw mut (*traffic).connections });
        }
    }
}

/// Lets the call go on, or fail as it would at a host where nobody listens.
#[inline(always)]
fn answer(reason: Reason) -> i32 {
    if !reason.is_drop() {
        return ALLOW;
    }
    // SAFETY: a helper that takes a plain number.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
fn show<const VERSION: u8>(ctx: &SockAddrContext) -> i32 {
    socket::show(&mut Call::<VERSION>(ctx), &KernelTables::<false>);
    ALLOW
}

#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    answer(socket::connect(&mut Call::<4>(&ctx), &KernelTables::<false>))
}

#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    answer(socket::connect(&mut Call::<6>(&ctx), &KernelTables::<false>))
}

#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    answer(socket::send(&mut Call::<4>(&ctx), &KernelTables::<false>))
}

#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    answer(socket::send(&mut Call::<6>(&ctx), &KernelTables::<false>))
}

#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    show::<4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    show::<6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    show::<4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    show::<6>(&ctx)
}
