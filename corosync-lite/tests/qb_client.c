/*
 * A client on the unmodified libqb, for the test of the IPC server.
 *
 *   qb_client SERVICE echo|events|refused|killed [UID]
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qb/qbipcc.h>

#define MAX (1 << 20)

#define CHECK(what)                                                                      \
    do {                                                                                 \
        if (!(what)) {                                                                   \
            fprintf(stderr, "line %d: %s, errno %d\n", __LINE__, #what, errno);          \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

static char request[MAX + 8], response[MAX];

static void send_request(qb_ipcc_connection_t *c, int id, int length)
{
    struct qb_ipc_request_header *head = (void *)request;
    head->id = id;
    head->size = length;
    CHECK(qb_ipcc_send(c, request, length) == length);
}

static void echo_one(qb_ipcc_connection_t *c, int length)
{
    struct qb_ipc_response_header *head = (void *)response;
    for (int i = sizeof(struct qb_ipc_request_header); i < length; i++)
        request[i] = (char)(i * 31 + length);
    send_request(c, 1, length);
    int got = qb_ipcc_recv(c, response, sizeof(response), 20000);
    int body = length - (int)sizeof(struct qb_ipc_request_header);
    if (body + (int)sizeof(*head) > MAX) {
        CHECK(got == sizeof(*head) && head->error == -ENOBUFS);
        return;
    }
    CHECK(got == body + (int)sizeof(*head));
    CHECK(head->id == 1 && head->error == 0 && head->size == got);
    CHECK(memcmp(request + 16, response + 24, body) == 0);
}

static void echo(qb_ipcc_connection_t *c)
{
    static const int sizes[] = { 16, 17, 24, 4095, 4096, 65536, MAX - 9, MAX - 8, MAX - 7, MAX };
    CHECK(qb_ipcc_get_buffer_size(c) == MAX);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        echo_one(c, sizes[i]);
    /* Round the ring many times, over its end at every offset. */
    for (int i = 0; i < 3000; i++)
        echo_one(c, 16 + (i * 7919) % 40000);
    CHECK(qb_ipcc_send(c, request, MAX + 1) == -EMSGSIZE);
    send_request(c, 99, 16);
    CHECK(qb_ipcc_recv(c, response, sizeof(response), 20000) == 24);
    CHECK(((struct qb_ipc_response_header *)response)->error == -44);
}

static void take_events(qb_ipcc_connection_t *c, uint32_t count, uint32_t filler)
{
    int fd;
    CHECK(qb_ipcc_fd_get(c, &fd) == 0);
    memcpy(request + 16, &count, 4);
    memcpy(request + 20, &filler, 4);
    send_request(c, 3, 24);
    CHECK(qb_ipcc_recv(c, response, sizeof(response), 20000) == 24);
    for (uint32_t i = 0, index; i < count; i++) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        CHECK(poll(&wait, 1, 20000) == 1);
        int got = qb_ipcc_event_recv(c, response, sizeof(response), 20000);
        CHECK(got == (int)(28 + filler));
        memcpy(&index, response + 24, 4);
        CHECK(index == i && (filler == 0 || response[27 + filler] == 0x5a));
    }
    struct pollfd quiet = { .fd = fd, .events = POLLIN };
    CHECK(poll(&quiet, 1, 0) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    if (argc > 3)
        CHECK(setgid(atoi(argv[3])) == 0 && setuid(atoi(argv[3])) == 0);
    CHECK(qb_ipcc_connect("no-such-service-here", MAX) == NULL && errno == ECONNREFUSED);
    qb_ipcc_connection_t *c = qb_ipcc_connect(argv[1], MAX);
    if (strcmp(argv[2], "refused") == 0) {
        CHECK(c == NULL && errno == EACCES);
        return 0;
    }
    CHECK(c != NULL);
    if (strcmp(argv[2], "echo") == 0) {
        echo(c);
    } else if (strcmp(argv[2], "events") == 0) {
        take_events(c, 3, 10);
        take_events(c, 2000, 0);
        take_events(c, 30, 400000);
        take_events(c, 5, MAX - 28);
        echo_one(c, 1000);
    } else if (strcmp(argv[2], "killed") == 0) {
        send_request(c, 1, 100);
        kill(getpid(), SIGKILL);
    }
    qb_ipcc_disconnect(c);
    return 0;
}
