//! Wires without the kernel's networking: the inbox, captures, links, the generator, bad specs.
