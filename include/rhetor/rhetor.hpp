// Rhetor for C++: everything. A thin, header-only layer over the C interface in rhetor.h.
#pragma once

#include "rhetor/error.hpp"
#include "rhetor/make.hpp"
#include "rhetor/model.hpp"
#include "rhetor/session.hpp"
