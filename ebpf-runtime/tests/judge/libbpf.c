/* Lets libbpf load one XDP program of an object into the kernel, so that the kernel's verdict about a file owes nothing
 * to our own loader. One request a line, fields separated by tabs; one answer a line.
 *
 *   load FILE PROGRAM IFINDEX   ->  ok PROG_ID NAME:MAP_ID...    or    refused REASON
 *
 * What was loaded stays until the next request. With an IFINDEX the program is bound to that device, as kernel
 * functions for metadata ask for. */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#ifndef BPF_F_XDP_DEV_BOUND_ONLY
#define BPF_F_XDP_DEV_BOUND_ONLY (1U << 6)
#endif

static char log_buf[1 << 20];
static char messages[1 << 16];
static size_t messages_len;

/* libbpf says here what it does not put into an error number. */
static int keep(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level != LIBBPF_WARN || messages_len + 1 >= sizeof(messages))
		return 0;
	int n = vsnprintf(messages + messages_len, sizeof(messages) - messages_len, format, args);
	if (n > 0)
		messages_len += (size_t)n;
	if (messages_len >= sizeof(messages))
		messages_len = sizeof(messages) - 1;
	return 0;
}

/* The last line of a text that says something; the verifier ends with counts. */
static const char *last_line(char *text)
{
	const char *best = "";
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		int counts = !strncmp(line, "processed ", 10) || !strncmp(line, "peak_states", 11) ||
			     !strncmp(line, "verification time", 17) || !strncmp(line, "stack depth", 11);
		if (!counts && !strstr(line, "-- END PROG LOAD LOG") && *line)
			best = line;
	}
	return best;
}

static void refused(const char *step, int err)
{
	const char *why = last_line(log_buf);
	if (!*why)
		why = last_line(messages);
	printf("refused\t%s: %s: %s\n", step, strerror(err < 0 ? -err : err), why);
}

static struct bpf_object *load(const char *file, const char *wanted, unsigned int ifindex)
{
	struct bpf_program *program, *chosen = NULL;
	struct bpf_map *map;
	struct bpf_object *object;
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);

	log_buf[0] = messages[0] = 0;
	messages_len = 0;
	LIBBPF_OPTS(bpf_object_open_opts, options);
	object = bpf_object__open_file(file, &options);
	if (!object) {
		refused("open", errno);
		return NULL;
	}
	bpf_object__for_each_program(program, object) {
		int here = !strcmp(bpf_program__name(program), wanted);
		bpf_program__set_autoload(program, here);
		if (here)
			chosen = program;
	}
	if (!chosen) {
		printf("refused\topen: no such program\n");
		bpf_object__close(object);
		return NULL;
	}
	bpf_program__set_type(chosen, BPF_PROG_TYPE_XDP);
	bpf_program__set_log_buf(chosen, log_buf, sizeof(log_buf));
	bpf_program__set_log_level(chosen, 1);
	if (ifindex) {
		bpf_program__set_ifindex(chosen, ifindex);
		bpf_program__set_flags(chosen, bpf_program__flags(chosen) | BPF_F_XDP_DEV_BOUND_ONLY);
	}
	/* Nothing is left behind in a file system. */
	bpf_object__for_each_map(map, object)
		bpf_map__set_pin_path(map, NULL);
	int err = bpf_object__load(object);
	if (!err)
		err = bpf_obj_get_info_by_fd(bpf_program__fd(chosen), &info, &len);
	if (err) {
		refused("load", err);
		bpf_object__close(object);
		return NULL;
	}
	printf("ok\t%u", info.id);
	bpf_object__for_each_map(map, object) {
		struct bpf_map_info about = {};
		len = sizeof(about);
		if (bpf_map__fd(map) >= 0 && !bpf_obj_get_info_by_fd(bpf_map__fd(map), &about, &len))
			printf("\t%s:%u", bpf_map__name(map), about.id);
	}
	printf("\n");
	return object;
}

int main(void)
{
	static char line[8192];
	struct bpf_object *held = NULL;

	libbpf_set_print(keep);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *verb = strtok(line, "\t"), *file = strtok(NULL, "\t");
		char *program = strtok(NULL, "\t"), *ifindex = strtok(NULL, "\t");
		if (held)
			bpf_object__close(held);
		held = NULL;
		if (!verb || strcmp(verb, "load") || !ifindex)
			printf("refused\tthe request is not understood\n");
		else
			held = load(file, program, (unsigned int)strtoul(ifindex, NULL, 10));
		fflush(stdout);
	}
	return 0;
}
