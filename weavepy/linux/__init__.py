"""All that needs root: bridge, TAP, namespaces, addresses. The only package that knows netlink.

Rules. Functions are plain and synchronous; a daemon calls them in a worker thread. Everything happens in the
calling thread's network namespace, so several routers live on one machine in different namespaces. Most
mistakes come from two interfaces with the same index in two namespaces: never compare indexes without knowing
where they belong.
"""
