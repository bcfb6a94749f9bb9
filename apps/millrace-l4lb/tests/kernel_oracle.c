/* SPDX-License-Identifier: MIT */
/* The Linux kernel as a judge of an XDP object, driven by lines on stdin so that a test needs no unsafe code:
 *   update MAP KEY VALUE | lookup MAP KEY | delete MAP KEY | run FRAME
 * KEY, VALUE and FRAME are hex ("-" is empty); each line gets one line of answer: "ok [HEX ...]" or "err TEXT". */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

static int nibble(int c)
{
	return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

static size_t from_hex(const char *text, unsigned char *out, size_t room)
{
	size_t n = 0;

	if (*text == '-')
		return 0;
	for (; text[0] && text[1] && n < room; text += 2)
		out[n++] = nibble(text[0]) << 4 | nibble(text[1]);
	return n;
}

static void put_hex(const unsigned char *bytes, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	putchar(' ');
	for (size_t i = 0; i < n; i++) {
		putchar(digits[bytes[i] >> 4]);
		putchar(digits[bytes[i] & 15]);
	}
	if (!n)
		putchar('-');
}

int main(int argc, char **argv)
{
	static unsigned char key[4096], value[1 << 22], frame[1 << 16], out[1 << 16];
	struct bpf_object *object;
	struct bpf_program *program;
	char *line = NULL;
	size_t room = 0;

	if (argc < 2)
		return 2;
	libbpf_set_print(print);
	object = bpf_object__open_file(argv[1], NULL);
	if (!object) {
		printf("err open: %s\n", strerror(errno));
		return 1;
	}
	for (int i = 2; i + 1 < argc; i += 2)	/* MAP ENTRIES ... */
		bpf_map__set_max_entries(bpf_object__find_map_by_name(object, argv[i]), atoi(argv[i + 1]));
	program = bpf_object__next_program(object, NULL);
	if (bpf_object__load(object)) {
		printf("err load: %s\n", strerror(errno));
		return 1;
	}
	printf("ok\n");
	fflush(stdout);
	while (getline(&line, &room, stdin) > 0) {
		char *verb = strtok(line, " \n"), *name, *k, *v;
		struct bpf_map *map = NULL;
		int fd = -1, rc;

		if (!verb)
			continue;
		if (!strcmp(verb, "run")) {
			LIBBPF_OPTS(bpf_test_run_opts, opts);
			char *hex = strtok(NULL, " \n");

			opts.data_in = frame;
			opts.data_size_in = from_hex(hex ? hex : "-", frame, sizeof(frame));
			opts.data_out = out;
			opts.data_size_out = sizeof(out);
			opts.repeat = 1;
			rc = bpf_prog_test_run_opts(bpf_program__fd(program), &opts);
			if (rc) {
				printf("err run: %s\n", strerror(-rc));
			} else {
				printf("ok %u", opts.retval);
				put_hex(out, opts.data_size_out);
				putchar('\n');
			}
			fflush(stdout);
			continue;
		}
		name = strtok(NULL, " \n");
		k = strtok(NULL, " \n");
		v = strtok(NULL, " \n");
		map = name ? bpf_object__find_map_by_name(object, name) : NULL;
		if (!map || !k) {
			printf("err no map\n");
			fflush(stdout);
			continue;
		}
		fd = bpf_map__fd(map);
		from_hex(k, key, sizeof(key));
		if (!strcmp(verb, "update")) {
			from_hex(v ? v : "-", value, sizeof(value));
			rc = bpf_map_update_elem(fd, key, value, BPF_ANY);
			printf(rc ? "err %s\n" : "ok\n", strerror(errno));
		} else if (!strcmp(verb, "delete")) {
			rc = bpf_map_delete_elem(fd, key);
			printf(rc ? "err %s\n" : "ok\n", strerror(errno));
		} else if (!strcmp(verb, "lookup")) {
			int percpu = bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY;
			size_t size = bpf_map__value_size(map), step = (size + 7) / 8 * 8;

			rc = bpf_map_lookup_elem(fd, key, value);
			if (rc) {
				printf("err %s\n", strerror(errno));
			} else {
				printf("ok");
				for (int cpu = 0; cpu < (percpu ? libbpf_num_possible_cpus() : 1); cpu++)
					put_hex(value + cpu * step, size);
				putchar('\n');
			}
		}
		fflush(stdout);
	}
	bpf_object__close(object);
	free(line);
	return 0;
}
