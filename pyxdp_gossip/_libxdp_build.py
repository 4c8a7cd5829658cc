# SPDX-License-Identifier: BSD-2-Clause
"""Declares the cffi module `_libxdp`: the parts of libxdp and libbpf that set-up needs.

API mode: the compiler checks every declaration against the installed headers. Nothing here runs
per packet. libxdp 1.3.1 to 1.6, libbpf 1.1 and newer.
"""

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    /* ---- libbpf: objects, maps, programs ---- */
    struct bpf_object;
    struct bpf_map;
    struct bpf_program;

    struct bpf_object *xg_open_object(const char *path);
    int bpf_object__load(struct bpf_object *object);
    void bpf_object__close(struct bpf_object *object);
    struct bpf_map *bpf_object__next_map(const struct bpf_object *object,
                                         const struct bpf_map *map);
    struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object,
                                                 const char *name);
    struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object,
                                                         const char *name);
    const char *bpf_map__name(const struct bpf_map *map);
    int bpf_map__fd(const struct bpf_map *map);
    uint32_t bpf_map__max_entries(const struct bpf_map *map);
    uint32_t bpf_map__type(const struct bpf_map *map);
    uint32_t bpf_map__key_size(const struct bpf_map *map);
    uint32_t bpf_map__value_size(const struct bpf_map *map);
    uint32_t bpf_map__map_flags(const struct bpf_map *map);
    int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
    int bpf_map__reuse_fd(struct bpf_map *map, int fd);
    int bpf_program__fd(const struct bpf_program *program);

    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
    int bpf_map_lookup_elem(int fd, const void *key, void *value);
    int bpf_map_delete_elem(int fd, const void *key);
    int bpf_map_get_next_key(int fd, const void *key, void *next_key);
    int libbpf_num_possible_cpus(void);

    /* ---- libbpf: links and pins ---- */
    int bpf_obj_pin(int fd, const char *path);
    int bpf_obj_get(const char *path);
    int bpf_link_detach(int link_fd);
    int bpf_iter_create(int link_fd);
    int xg_map_shape(int fd, uint32_t shape[5]);
    int xg_link_create(int program_fd, int target, int attach_type, uint32_t flags);
    int xg_link_update(int link_fd, int program_fd);
    int xg_link_ifindex(int link_fd, uint32_t *ifindex);
    int xg_xdp_attached(int ifindex, uint32_t *program_id, uint8_t *mode);
    int xg_test_run(int program_fd, const void *data_in, uint32_t data_in_len, void *data_out,
                    uint32_t *data_out_len, uint32_t ifindex, uint32_t repeat,
                    uint32_t *action, uint32_t *duration_ns);

    /* ---- libbpf: what this kernel has ---- */
    int libbpf_probe_bpf_prog_type(int type, const void *options);
    int libbpf_probe_bpf_helper(int type, int helper, const void *options);
    int xg_probe_xdp(void);
    int xg_probe_several_buffers(void);
    int xg_probe_map(int type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags);

    enum { BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SOCK_OPS, ... };
    enum { BPF_FUNC_skc_lookup_tcp, BPF_FUNC_tcp_check_syncookie, ... };
    enum { BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_XSKMAP, ... };
    enum { BPF_F_MMAPABLE, ... };
    enum { BPF_XDP, BPF_CGROUP_SOCK_OPS, BPF_TRACE_ITER, ... };
    #define XDP_FLAGS_DRV_MODE ...
    #define XDP_FLAGS_SKB_MODE ...

    /* ---- what libbpf says, kept for the next error ---- */
    void xg_capture_messages(void);
    const char *xg_last_message(void);
    void xg_clear_message(void);

    /* ---- libxdp ---- */
    int xg_attached_names(int ifindex, char *names, size_t size);

    struct xsk_umem;
    struct xsk_socket;
    struct xsk_ring_prod { uint32_t size; ...; };
    struct xsk_ring_cons { uint32_t size; ...; };
    struct xdp_statistics { uint64_t rx_dropped, rx_invalid_descs, tx_invalid_descs,
                            rx_ring_full, rx_fill_ring_empty_descs, tx_ring_empty_descs; ...; };
    #define XDP_COPY ...
    #define XDP_USE_SG ...
    #define XDP_ZEROCOPY ...
    #define XDP_USE_NEED_WAKEUP ...

    int xg_prefer_node(void *area, uint64_t size, uint32_t node);
    int xg_umem_create(struct xsk_umem **umem, void *area, uint64_t size,
                       struct xsk_ring_prod *fill, struct xsk_ring_cons *completion,
                       uint32_t fill_size, uint32_t completion_size, uint32_t frame_size);
    int xsk_umem__delete(struct xsk_umem *umem);
    int xg_socket_create(struct xsk_socket **socket, const char *interface, uint32_t queue,
                         struct xsk_umem *umem, struct xsk_ring_cons *rx,
                         struct xsk_ring_prod *tx, struct xsk_ring_prod *fill,
                         struct xsk_ring_cons *completion, uint32_t rx_size, uint32_t tx_size,
                         uint16_t bind_flags);
    int xsk_socket__fd(const struct xsk_socket *socket);
    int xsk_socket__update_xskmap(struct xsk_socket *socket, int map_fd);
    void xsk_socket__delete(struct xsk_socket *socket);
    int xg_socket_is_zero_copy(int fd);
    int xg_socket_statistics(int fd, struct xdp_statistics *statistics);
    int xg_socket_kick(int fd, int send);
    """
)

ffibuilder.set_source(
    "pyxdp_gossip._libxdp",
    """
    #include <errno.h>
    #include <stdarg.h>
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>
    #include <linux/if_link.h>
    #include <bpf/bpf.h>
    #include <bpf/libbpf.h>
    #include <xdp/libxdp.h>
    #include <xdp/xsk.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>

    #ifndef XDP_USE_SG	/* Linux 6.6 */
    #define XDP_USE_SG (1 << 4)
    #endif
    #ifndef SOL_XDP
    #define SOL_XDP 283
    #endif

    static char last_message[2048];

    /* The verifier's verdict is the last line that names an error; everything is kept short. */
    static int keep_message(enum libbpf_print_level level, const char *format, va_list arguments)
    {
        if (level == LIBBPF_WARN)
            return vsnprintf(last_message, sizeof(last_message), format, arguments);
        return 0;
    }

    static void xg_capture_messages(void) { libbpf_set_print(keep_message); }
    static const char *xg_last_message(void) { return last_message; }
    static void xg_clear_message(void) { last_message[0] = 0; }

    static struct bpf_object *xg_open_object(const char *path)
    {
        return bpf_object__open_file(path, NULL);
    }

    /* Type, bytes of a key and of a value, entries, flags. */
    static int xg_map_shape(int fd, uint32_t shape[5])
    {
        struct bpf_map_info info = {};
        uint32_t len = sizeof(info);
        int rc = bpf_obj_get_info_by_fd(fd, &info, &len);

        if (rc)
            return rc;
        shape[0] = info.type;
        shape[1] = info.key_size;
        shape[2] = info.value_size;
        shape[3] = info.max_entries;
        shape[4] = info.map_flags;
        return 0;
    }

    static int xg_link_create(int program_fd, int target, int attach_type, uint32_t flags)
    {
        LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags);

        return bpf_link_create(program_fd, target, attach_type, &options);
    }

    static int xg_link_update(int link_fd, int program_fd)
    {
        return bpf_link_update(link_fd, program_fd, NULL);
    }

    static int xg_link_ifindex(int link_fd, uint32_t *ifindex)
    {
        struct bpf_link_info info = {};
        uint32_t len = sizeof(info);
        int rc = bpf_obj_get_info_by_fd(link_fd, &info, &len);

        *ifindex = info.xdp.ifindex;
        return rc;
    }

    static int xg_xdp_attached(int ifindex, uint32_t *program_id, uint8_t *mode)
    {
        LIBBPF_OPTS(bpf_xdp_query_opts, options);
        int rc = bpf_xdp_query(ifindex, 0, &options);

        *program_id = options.prog_id;
        *mode = options.attach_mode;
        return rc;
    }

    static int silent(enum libxdp_print_level level, const char *format, va_list arguments)
    {
        return 0;
    }

    /* The XDP programs on an interface, those behind libxdp's dispatcher too, by name. */
    static int xg_attached_names(int ifindex, char *names, size_t size)
    {
        struct xdp_program *program = NULL;
        struct xdp_multiprog *all;
        size_t used = 0;

        libxdp_set_print(silent);
        names[0] = 0;
        all = xdp_multiprog__get_from_ifindex(ifindex);
        if (libxdp_get_error(all))
            return (int)libxdp_get_error(all);
        if (xdp_multiprog__is_legacy(all))
            snprintf(names, size, "%s", xdp_program__name(xdp_multiprog__main_prog(all)));
        else
            while ((program = xdp_multiprog__next_prog(program, all)) && used < size)
                used += (size_t)snprintf(names + used, size - used, "%s%s", used ? ", " : "",
                                         xdp_program__name(program));
        xdp_multiprog__close(all);
        return 0;
    }

    #define XG_NODES 1024
    #define XG_MPOL_PREFERRED 1	/* linux/mempolicy.h: elsewhere, if this node has no memory left */

    /* Pages of the area that nobody touched yet will lie on this NUMA node. */
    static int xg_prefer_node(void *area, uint64_t size, uint32_t node)
    {
        unsigned long mask[XG_NODES / (8 * sizeof(unsigned long))] = { 0 };
        const uint32_t bits = 8 * sizeof(unsigned long);

        if (node >= XG_NODES)
            return -EINVAL;
        mask[node / bits] = 1ul << (node % bits);
        /* the kernel takes one bit less than it is told */
        return syscall(SYS_mbind, area, size, XG_MPOL_PREFERRED, mask, XG_NODES + 1, 0) ? -errno
                                                                                        : 0;
    }

    /* Loads the least XDP program there is, and forgets it: libbpf's own probes call a missing
     * privilege a missing feature. 0 or -errno. */
    static int xg_probe_xdp(void)
    {
        static const struct bpf_insn pass[] = {
            { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = XDP_PASS },
            { .code = BPF_JMP | BPF_EXIT },
        };
        int fd = bpf_prog_load(BPF_PROG_TYPE_XDP, "xg_probe", "BSD", pass, 2, NULL);

        if (fd < 0)
            return fd;
        close(fd);
        return 0;
    }

    /* Whether the kernel knows XDP_USE_SG, by a bind that it must refuse: it looks at the flags
     * before the device. */
    static int xg_probe_several_buffers(void)
    {
        struct sockaddr_xdp nowhere = {
            .sxdp_family = AF_XDP, .sxdp_flags = XDP_USE_SG, .sxdp_ifindex = INT32_MAX,
        };
        int fd = socket(AF_XDP, SOCK_RAW, 0), rc;

        if (fd < 0)
            return -errno;
        rc = bind(fd, (struct sockaddr *)&nowhere, sizeof(nowhere)) ? -errno : 0;
        close(fd);
        return rc == -ENODEV ? 0 : rc;
    }

    static int xg_probe_map(int type, uint32_t key, uint32_t value, uint32_t entries,
                            uint32_t flags)
    {
        LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);
        int fd = bpf_map_create(type, "xg_probe", key, value, entries, &options);

        if (fd < 0)
            return fd;
        close(fd);
        return 0;
    }

    static int xg_umem_create(struct xsk_umem **umem, void *area, uint64_t size,
                              struct xsk_ring_prod *fill, struct xsk_ring_cons *completion,
                              uint32_t fill_size, uint32_t completion_size, uint32_t frame_size)
    {
        struct xsk_umem_config config = {
            .fill_size = fill_size, .comp_size = completion_size, .frame_size = frame_size,
        };

        return xsk_umem__create(umem, area, size, fill, completion, &config);
    }

    static int xg_socket_create(struct xsk_socket **socket, const char *interface,
                                uint32_t queue, struct xsk_umem *umem, struct xsk_ring_cons *rx,
                                struct xsk_ring_prod *tx, struct xsk_ring_prod *fill,
                                struct xsk_ring_cons *completion, uint32_t rx_size,
                                uint32_t tx_size, uint16_t bind_flags)
    {
        struct xsk_socket_config config = {
            .rx_size = rx_size, .tx_size = tx_size, .bind_flags = bind_flags,
            .libbpf_flags = XSK_LIBBPF_FLAGS__INHIBIT_PROG_LOAD,
        };

        libxdp_set_print(silent);
        return xsk_socket__create_shared(socket, interface, queue, umem, rx, tx, fill,
                                         completion, &config);
    }

    static int xg_socket_is_zero_copy(int fd)
    {
        struct xdp_options options = {};
        socklen_t len = sizeof(options);

        if (getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &len))
            return -errno;
        return !!(options.flags & XDP_OPTIONS_ZEROCOPY);
    }

    static int xg_socket_statistics(int fd, struct xdp_statistics *statistics)
    {
        socklen_t len = sizeof(*statistics);

        memset(statistics, 0, sizeof(*statistics));
        return getsockopt(fd, SOL_XDP, XDP_STATISTICS, statistics, &len) ? -errno : 0;
    }

    /* Makes the kernel look at the TX ring, or at the fill ring. */
    static int xg_socket_kick(int fd, int send)
    {
        ssize_t rc = send ? sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0)
                          : recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);

        return rc < 0 ? -errno : 0;
    }

    static int xg_test_run(int program_fd, const void *data_in, uint32_t data_in_len,
                           void *data_out, uint32_t *data_out_len, uint32_t ifindex,
                           uint32_t repeat, uint32_t *action, uint32_t *duration_ns)
    {
        struct xdp_md context = { .data_end = data_in_len, .ingress_ifindex = ifindex };
        LIBBPF_OPTS(bpf_test_run_opts, options,
            .data_in = data_in, .data_size_in = data_in_len,
            .data_out = data_out, .data_size_out = *data_out_len,
            .ctx_in = ifindex ? &context : NULL,
            .ctx_size_in = ifindex ? sizeof(context) : 0,
            .repeat = (int)repeat);
        int rc = bpf_prog_test_run_opts(program_fd, &options);

        *data_out_len = options.data_size_out;
        *action = options.retval;
        *duration_ns = options.duration;
        return rc;
    }
    """,
    libraries=["xdp", "bpf"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
