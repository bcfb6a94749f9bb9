//! An L4 load balancer: Maglev and a connection table in an XDP program, health checks and control beside it.
