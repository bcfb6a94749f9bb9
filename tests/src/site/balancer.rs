//! The balancer of a site: the modelled NIC in one process, `millrace-l4lb` attached to it in another.
