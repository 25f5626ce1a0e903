/* SPDX-License-Identifier: MIT */
/* See top_screen.h. Must never decide what is shown, nor leave the terminal other than it was. */
#include "tools/lbctl/top_screen.h"

#include <errno.h>
#include <ncurses.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"

#define ESCAPE          27
#define ESCAPE_DELAY_MS 25

static SCREEN *screen;

int lb_top_screen_open(void)
{
	screen = newterm(NULL, stdout, stdin);
	if (!screen)
		return -EINVAL;
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(ESCAPE_DELAY_MS);
	curs_set(0);
	if (has_colors()) {
		start_color();
		use_default_colors();
		init_pair(1, COLOR_RED, -1);
	}
	return 0;
}

void lb_top_screen_close(void)
{
	if (!screen)
		return;
	endwin();
	delscreen(screen);
	screen = NULL;
}

void lb_top_screen_resize(void)
{
	struct winsize size;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row && size.ws_col)
		resizeterm(size.ws_row, size.ws_col);
	clearok(curscr, TRUE);
}

void lb_top_screen_size(size_t *width, size_t *height)
{
	*width = (size_t)getmaxx(stdscr);
	*height = (size_t)getmaxy(stdscr);
}

static attr_t attributes_of(enum lb_top_look look)
{
	switch (look) {
	case LB_TOP_BOLD:
		return A_BOLD;
	case LB_TOP_HEAD:
		return A_BOLD | A_UNDERLINE;
	case LB_TOP_SELECTED:
		return A_REVERSE;
	case LB_TOP_ALARM:
		return A_BOLD | (has_colors() ? COLOR_PAIR(1) : 0);
	case LB_TOP_PLAIN:
		break;
	}
	return A_NORMAL;
}

void lb_top_screen_draw(const struct lb_top_frame *frame)
{
	erase();
	for (size_t i = 0; i < frame->count; i++) {
		attr_t attributes = attributes_of(frame->lines[i].look);

		attron(attributes);
		mvaddstr((int)i, 0, frame->lines[i].text);
		attroff(attributes);
	}
	refresh();
}

bool lb_top_screen_key(unsigned int *key)
{
	static const struct {
		int code;
		unsigned int key;
	} keys[] = {
		{'q', LB_TOP_KEY_QUIT},
		{'h', LB_TOP_KEY_HELP},
		{'?', LB_TOP_KEY_HELP},
		{'p', LB_TOP_KEY_PAUSE},
		{' ', LB_TOP_KEY_PAUSE},
		{'+', LB_TOP_KEY_SLOWER},
		{'-', LB_TOP_KEY_FASTER},
		{'s', LB_TOP_KEY_SORT},
		{'S', LB_TOP_KEY_SORT_BACK},
		{'r', LB_TOP_KEY_REVERSE},
		{'k', LB_TOP_KEY_UP},
		{'j', LB_TOP_KEY_DOWN},
		{KEY_UP, LB_TOP_KEY_UP},
		{KEY_DOWN, LB_TOP_KEY_DOWN},
		{KEY_PPAGE, LB_TOP_KEY_PAGE_UP},
		{KEY_NPAGE, LB_TOP_KEY_PAGE_DOWN},
		{KEY_HOME, LB_TOP_KEY_HOME},
		{KEY_END, LB_TOP_KEY_END},
		{'\r', LB_TOP_KEY_ENTER},
		{'\n', LB_TOP_KEY_ENTER},
		{KEY_ENTER, LB_TOP_KEY_ENTER},
		{KEY_RIGHT, LB_TOP_KEY_ENTER},
		{KEY_LEFT, LB_TOP_KEY_BACK},
		{KEY_BACKSPACE, LB_TOP_KEY_BACK},
		{127, LB_TOP_KEY_BACK},
		{'\b', LB_TOP_KEY_BACK},
		{ESCAPE, LB_TOP_KEY_BACK},
		{'\t', LB_TOP_KEY_NEXT},
		{KEY_BTAB, LB_TOP_KEY_PREVIOUS},
	};
	int code = getch();

	*key = LB_TOP_KEY_NONE;
	if (code == ERR)
		return false;
	if (code >= '1' && code < '1' + LB_TOP_TABLES_)
		*key = LB_TOP_KEY_VIEW + (unsigned int)(code - '1');
	for (size_t i = 0; i < LB_ARRAY_SIZE(keys); i++)
		if (keys[i].code == code)
			*key = keys[i].key;
	return true;
}
