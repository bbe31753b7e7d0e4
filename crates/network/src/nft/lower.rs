//! Turns statements into the kernel's expressions.

use nlink::netlink::nftables::{
    ChainName, CmpOp, CtKey, DynsetExpr, DynsetOp, Expr, FibFlags, FibResult, LookupExpr, MetaKey,
    NumgenKind, PayloadBase, RawExpr, Register, Verdict,
};

use super::rule::{Direction, Field, Rule, Statement};
use crate::Cidr;

const RTN_LOCAL: u32 = 2;
const CT_STATE_NEW: u32 = 8;
const CT_STATUS_DNAT: u32 = 1 << 5;
const ICMP: u8 = 1;
const ICMP_REDIRECT: u8 = 5;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const REJECT_WITH_ICMP: u32 = 0;
const NFPROTO_IPV4: u32 = 2;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFT_NAT_DNAT: u32 = 1;
const NFTA_MASQ_FLAGS: u16 = 1;

/// Keys are loaded from word 0 on, values from word 4 on (address) and word 5 (port).
const KEY: Register = Register::R0;
const TARGET: Register = Register::R1;
const TARGET_PORT: Register = Register::Reg32_05;

/// The expressions of a rule; an error names what the kernel would refuse.
pub(super) fn rule(rule: &Rule) -> Result<Vec<Expr>, nlink::Error> {
    let mut out = Vec::with_capacity(rule.len() * 3);
    for step in rule {
        statement(step, &mut out)?;
    }
    Ok(out)
}

fn statement(statement: &Statement, out: &mut Vec<Expr>) -> Result<(), nlink::Error> {
    match statement {
        Statement::Interface {
            direction,
            prefix,
            negate,
        } => interface(*direction, prefix, *negate, out),
        Statement::Source(cidr, within) => address(12, *cidr, *within, out),
        Statement::Destination(cidr, within) => address(16, *cidr, *within, out),
        Statement::Lookup(fields, set, within) => {
            load(fields, out);
            let lookup = LookupExpr::new(&**set, KEY);
            out.push(if *within { lookup } else { lookup.invert() }.into());
        }
        Statement::Dispatch(fields, map) => {
            load(fields, out);
            out.push(LookupExpr::new(&**map, KEY).dreg(Register::Verdict).into());
        }
        Statement::LocalDestination => local(FibFlags::DADDR, out),
        Statement::LocalSource => local(FibFlags::SADDR, out),
        Statement::NewConnection => connection(CtKey::State, CT_STATE_NEW, out),
        Statement::DestinationRewritten => connection(CtKey::Status, CT_STATUS_DNAT, out),
        Statement::IcmpRedirect => {
            out.push(meta(MetaKey::L4Proto, KEY));
            out.push(equal(KEY, vec![ICMP]));
            out.push(payload(PayloadBase::Transport, 0, 1, KEY));
            out.push(equal(KEY, vec![ICMP_REDIRECT]));
        }
        Statement::SetMark(bit) => change_mark(!bit, *bit, out),
        Statement::ClearMark(bit) => change_mark(!bit, 0, out),
        Statement::Marked(bit, set) => {
            out.push(meta(MetaKey::Mark, KEY));
            out.push(bitwise(*bit, 0));
            out.push(compare(*set, KEY, vec![0; 4]));
        }
        Statement::Balance {
            map,
            count,
            remember,
        } => balance(map, *count, remember.as_deref(), out),
        Statement::Recall { memory, alive } => {
            load(&[Field::Source], out);
            out.push(LookupExpr::new(&**memory, KEY).dreg(TARGET).into());
            out.push(LookupExpr::new(&**alive, TARGET).into());
            out.push(dynset(DynsetOp::Update, memory));
            out.push(redirect());
        }
        Statement::Forget(memory) => {
            // The kernel wants a value register for a map even where it only deletes.
            load(&[Field::Source], out);
            out.push(LookupExpr::new(&**memory, KEY).dreg(TARGET).into());
            out.push(dynset(DynsetOp::Delete, memory));
        }
        Statement::Redirect(fields, map) => {
            load(fields, out);
            out.push(LookupExpr::new(&**map, KEY).dreg(TARGET).into());
            out.push(redirect());
        }
        Statement::Masquerade => out.push(masquerade()),
        Statement::Reject => out.push(Expr::Reject {
            reject_type: REJECT_WITH_ICMP,
            icmp_code: ICMP_PORT_UNREACHABLE,
        }),
        Statement::Drop => out.push(Expr::Verdict(Verdict::Drop)),
        Statement::Accept => out.push(Expr::Verdict(Verdict::Accept)),
        Statement::Return => out.push(Expr::Verdict(Verdict::Return)),
        Statement::Jump(chain) => {
            out.push(Expr::Verdict(Verdict::JumpTo(ChainName::new(&**chain)?)));
        }
        Statement::Goto(chain) => {
            out.push(Expr::Verdict(Verdict::GotoTo(ChainName::new(&**chain)?)));
        }
    }
    Ok(())
}

/// Loads fields into consecutive words, as the key of a concatenation.
fn load(fields: &[Field], out: &mut Vec<Expr>) {
    for (word, field) in fields.iter().enumerate() {
        let Some(register) = Register::word(word) else {
            return;
        };
        out.push(match field {
            Field::Source => payload(PayloadBase::Network, 12, 4, register),
            Field::Destination => payload(PayloadBase::Network, 16, 4, register),
            Field::Protocol => meta(MetaKey::L4Proto, register),
            Field::Port => payload(PayloadBase::Transport, 2, 2, register),
        });
    }
}

fn interface(direction: Direction, prefix: &str, negate: bool, out: &mut Vec<Expr>) {
    let key = match direction {
        Direction::In => MetaKey::IifName,
        Direction::Out => MetaKey::OifName,
    };
    out.push(meta(key, KEY));
    out.push(compare(negate, KEY, prefix.as_bytes().to_vec()));
}

fn address(offset: u32, cidr: Cidr, within: bool, out: &mut Vec<Expr>) {
    out.push(payload(PayloadBase::Network, offset, 4, KEY));
    out.push(Expr::Bitwise {
        sreg: KEY,
        dreg: KEY,
        len: 4,
        mask: cidr.mask().octets().to_vec(),
        xor: vec![0; 4],
    });
    out.push(compare(!within, KEY, cidr.address().octets().to_vec()));
}

fn local(flags: FibFlags, out: &mut Vec<Expr>) {
    out.push(Expr::Fib {
        dreg: KEY,
        result: FibResult::AddrType,
        flags,
    });
    out.push(equal(KEY, RTN_LOCAL.to_ne_bytes().to_vec()));
}

/// One of these bits of a conntrack property is set.
fn connection(key: CtKey, bits: u32, out: &mut Vec<Expr>) {
    out.push(Expr::Ct { dreg: KEY, key });
    out.push(bitwise(bits, 0));
    out.push(compare(true, KEY, vec![0; 4]));
}

fn change_mark(keep: u32, set: u32, out: &mut Vec<Expr>) {
    out.push(meta(MetaKey::Mark, KEY));
    out.push(bitwise(keep, set));
    out.push(Expr::MetaSet {
        key: MetaKey::Mark,
        sreg: KEY,
    });
}

fn balance(map: &str, count: u32, remember: Option<&str>, out: &mut Vec<Expr>) {
    out.push(Expr::Numgen {
        dreg: KEY,
        kind: NumgenKind::Random,
        modulus: count,
        offset: 0,
    });
    out.push(LookupExpr::new(map, KEY).dreg(TARGET).into());
    if let Some(memory) = remember {
        load(&[Field::Source], out);
        out.push(dynset(DynsetOp::Update, memory));
    }
    out.push(redirect());
}

/// Changes what is remembered of the source address in word 0.
fn dynset(op: DynsetOp, memory: &str) -> Expr {
    DynsetExpr::new(op, memory, KEY).sreg_data(TARGET).into()
}

fn redirect() -> Expr {
    let attributes = [
        (NFTA_NAT_TYPE, NFT_NAT_DNAT),
        (NFTA_NAT_FAMILY, NFPROTO_IPV4),
        (NFTA_NAT_REG_ADDR_MIN, TARGET.wire()),
        (NFTA_NAT_REG_PROTO_MIN, TARGET_PORT.wire()),
    ];
    RawExpr::new("nat", numbers(&attributes)).into()
}

fn masquerade() -> Expr {
    let attributes = [(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY)];
    RawExpr::new("masq", numbers(&attributes)).into()
}

/// Netlink attributes that are big-endian numbers.
fn numbers(attributes: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(attributes.len() * 8);
    for (kind, value) in attributes {
        out.extend_from_slice(&8u16.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    out
}

fn meta(key: MetaKey, dreg: Register) -> Expr {
    Expr::Meta { dreg, key }
}

fn payload(base: PayloadBase, offset: u32, len: u32, dreg: Register) -> Expr {
    Expr::Payload {
        dreg,
        base,
        offset,
        len,
    }
}

fn bitwise(mask: u32, xor: u32) -> Expr {
    Expr::Bitwise {
        sreg: KEY,
        dreg: KEY,
        len: 4,
        mask: mask.to_ne_bytes().to_vec(),
        xor: xor.to_ne_bytes().to_vec(),
    }
}

fn equal(sreg: Register, data: Vec<u8>) -> Expr {
    compare(false, sreg, data)
}

fn compare(differs: bool, sreg: Register, data: Vec<u8>) -> Expr {
    Expr::Cmp {
        sreg,
        op: if differs { CmpOp::Neq } else { CmpOp::Eq },
        data,
    }
}
