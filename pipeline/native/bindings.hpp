// What each kernel's file adds to the module.
#pragma once

#include <nanobind/nanobind.h>

void bind_upsample(nanobind::module_ &m);
void bind_guided(nanobind::module_ &m);
void bind_planes(nanobind::module_ &m);
void bind_crf(nanobind::module_ &m);
void bind_motion(nanobind::module_ &m);
